"""How a person moves to a voice and a prompt.

Everything follows from what is heard and asked for: a model of four steps without guidance blurs what it cannot know.
In silence, and asked for nothing, a person stays as in the picture.
"""

import numpy as np
import torch
from torch import Tensor

from liveavatar_runtime.duration import ENCODER_FRAME_SAMPLES, ENCODER_MIN_SAMPLES, FEATURE_RATE

from .direction import SIDES, Direction
from .pose import MOTIONS
from .speech import Track, smoothed

HEARD = (
    "opening",
    "spread",
    "teeth",
    "tongue",
    "press",
    "loud",
    "blink",
    "stress",
    "turn",
    "tilt",
    "sway",
    "look",
    "speaking",
)
"""Rows of what is heard: what the audio encoder learns to tell."""
BLINK_SECONDS = 0.2
MOODS = {"happy": (0.85, 0.25), "sad": (-0.85, -0.15), "angry": (-0.35, -1.0), "surprised": (0.0, 1.0)}
"""What a mood adds to smile and brows."""


def heard(track: Track) -> np.ndarray:
    """What a track tells, [T, 13] in about -1..1, at 50 a second."""
    mouths = track.mouths
    opening, spread, teeth, tongue, press = mouths.T
    loud = np.clip(_loudness(track.sound)[: len(mouths)], 0, 1.5)
    loud = np.pad(loud, (0, len(mouths) - len(loud)), mode="edge")
    speaking = _smooth((mouths.max(axis=1) > 0.12).astype(float), 0.12)
    rows = {
        "opening": opening,
        "spread": spread,
        "teeth": teeth,
        "tongue": tongue,
        "press": press,
        "loud": _smooth(loud, 0.06),
        "blink": _blinks(speaking),
        "stress": np.clip(2.2 * (_smooth(loud, 0.1) - _smooth(loud, 0.5)), -1, 1),
        # How loud it is within a second is heard exactly; what lips do over a second is not, and a head that follows it
        # is blurred.
        "turn": np.clip(3.2 * (_smooth(loud, 0.25) - _smooth(loud, 0.7)), -1, 1),
        "tilt": np.clip(3.0 * (_smooth(loud, 0.5) - _smooth(loud, 1.2)), -1, 1),
        "sway": np.clip(3.0 * (_smooth(loud, 0.8) - _smooth(loud, 1.8)), -1, 1),
        "look": np.clip(3.5 * (_smooth(spread, 0.2) - _smooth(spread, 0.5)), -1, 1),
        "speaking": _smooth(speaking, 0.35),
    }
    return np.stack([rows[name] for name in HEARD], axis=1)


def poses_of(heard_rows: np.ndarray, direction: Direction) -> np.ndarray:
    """Rows [T, 15] of `Pose` for rows [T, 13] of `heard`, of somebody who is asked for something."""
    given = dict(zip(HEARD, heard_rows.T, strict=True))
    smile, brows = MOODS.get(direction.mood or "", (0.0, 0.0))
    side = SIDES.get(direction.aside or "", 0.0)
    # A loud voice opens the mouth further, a low one less.
    opening = np.clip(given["opening"] * (0.55 + 0.6 * given["loud"]), 0, 1)
    blink = np.clip(given["blink"], 0, 1)
    rows = {
        "opening": opening,
        "spread": given["spread"],
        "teeth": given["teeth"],
        "tongue": given["tongue"],
        "press": given["press"],
        "blink": blink,
        "look_x": given["look"] + 0.9 * side,
        "look_y": 0.5 * blink,
        "turn": 0.8 * given["turn"] + 0.75 * side,
        "nod": given["stress"] * (2.4 if direction.nods else 0.7),
        "tilt": given["tilt"],
        "brows": 0.5 * given["stress"] * given["speaking"] + brows,
        "smile": np.full(len(heard_rows), smile),
        "sway": given["sway"],
        "breath": given["speaking"],
    }
    table = np.stack([rows[name] for name in MOTIONS], axis=1)
    low = np.array(
        [0.0 if name in ("opening", "teeth", "tongue", "press", "blink", "breath") else -1.0 for name in MOTIONS]
    )
    return np.clip(table, low, 1.4 if direction.nods else 1.0)


def _loudness(sound: Tensor) -> np.ndarray:
    """Of each 20 ms, relative to the whole track's, as the audio encoder hears it."""
    samples = (sound - sound.mean()) / torch.sqrt(sound.var(correction=0) + 1e-7)
    frames = samples[0].unfold(0, ENCODER_MIN_SAMPLES, ENCODER_FRAME_SAMPLES)
    return frames.square().mean(dim=1).sqrt().double().numpy() / 1.3


def _blinks(speaking: np.ndarray) -> np.ndarray:
    """Eyes close for a moment when somebody has just stopped to speak."""
    hold = int(BLINK_SECONDS * FEATURE_RATE)
    quiet = speaking < 0.3
    spoke = np.array([speaking[max(0, t - hold) : t + 1].max() > 0.3 for t in range(len(speaking))])
    return np.clip(1.35 * _smooth((quiet & spoke).astype(float), 0.03), 0, 1)


def _smooth(x: np.ndarray, seconds: float) -> np.ndarray:
    """Over so many seconds of x [T]."""
    return smoothed(x[:, None], seconds * FEATURE_RATE)[:, 0]
