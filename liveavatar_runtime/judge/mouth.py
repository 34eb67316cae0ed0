"""The mouth: found by what moves with the voice, wherever it is, and compared with the voice clip by clip."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from .voice import SILENT, Loudness

LAGS = 14
"""Frames, to both sides, within which the mouth's lag is looked for."""
PER_FRAME = 2
"""Lags that are tried in a frame."""
CORE = 0.4
"""Of the strongest cell: what moves at least so much with the voice, beside it, is the mouth."""
CLEAR = 0.7
"""Of the clip that shows the mouth best, how well the others must that it is found by."""
SPAN = 24
"""Frames of a stretch in which the mouth may stand still: half a usual clip."""
QUIET = 0.25
"""Of the voice's usual movement, below which a stretch says nothing about the mouth."""


@dataclass(frozen=True, eq=False)
class Talk:
    """A clip as the mouth is judged by it. grey: [n, h, w]; `first`: its first frame in the whole video."""

    grey: np.ndarray
    first: int
    fps: Fraction
    loudness: Loudness

    def voice(self) -> np.ndarray:
        """[n]: loudness at the time of each frame."""
        return self.loudness.at(self.first, len(self.grey), self.fps)

    def voices(self, lags: np.ndarray) -> np.ndarray:
        """[lags, n]: loudness that the frames show when the mouth comes so many frames after the sound."""
        return self.loudness.at(self.first, len(self.grey), self.fps, -lags[:, None])


@dataclass(frozen=True, eq=False)
class Mouth:
    """Where the mouth is, as weights [h, w] of the grey picture, and what is usual of it in the clips around.

    gain: movement of the mouth for that of the voice; shut, open: the mouth's value in silence and in loud parts.
    """

    weights: np.ndarray
    gain: float
    shut: float
    open: float
    movement: float

    def opening(self, grey: np.ndarray) -> np.ndarray:
        """[n], in levels of 255."""
        return np.tensordot(grey, self.weights, 2)


@dataclass(frozen=True)
class MouthFound:
    """Of a clip; None where nothing can be said. sync: correlation of mouth and voice at the best lag; lag: frames by
    which the mouth comes after the voice; in_time: their correlation without a lag; moves: the least movement of the
    mouth for that of the voice, 1 is usual; silent: how far the mouth stands open where nobody speaks, 1 is as in loud
    parts."""

    sync: float | None
    lag: float | None
    in_time: float | None
    moves: float | None
    silent: float | None


NOTHING = MouthFound(None, None, None, None, None)


def changes(values: np.ndarray) -> np.ndarray:
    """Of [n, ...] in time, [n - 2, ...]: slow movement and light take no part in it."""
    return (values[2:] - values[:-2]) / 2


def lags() -> np.ndarray:
    return np.arange(-LAGS * PER_FRAME, LAGS * PER_FRAME + 1) / PER_FRAME


def find_mouth(clips: Sequence[Talk]) -> Mouth | None:
    """None when nothing moves with the voice, as in a video without one."""
    weights = _weights(clips)
    if weights is None:
        return None
    usable = [talk for talk in clips if len(talk.grey) > 4]
    moved = [changes(np.tensordot(talk.grey, weights, 2)) for talk in usable]
    heard = [changes(talk.voice()) for talk in usable]
    movement = float(np.median([_strength(hear) for hear in heard]))
    gains = [
        _strength(move) / _strength(hear)
        for move, hear in zip(moved, heard, strict=True)
        if _strength(hear) >= max(QUIET * movement, 1e-9)
    ]
    if not gains:
        return None
    # Most of the clips may be those in which it stands still.
    return Mouth(weights, float(np.quantile(gains, 0.9)), *_levels(usable, weights), movement)


def _strength(moved: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(moved))))


def _weights(clips: Sequence[Talk]) -> np.ndarray | None:
    """Weights [h, w] of the cells that move most with the voice, in the clips in which they do most, each at its own
    lag: in others the mouth may stand still, and the head moves with the voice too."""
    maps = [_map_of(talk) for talk in clips if len(talk.grey) >= 8]
    clearest = max((strength for _, strength in maps), default=0.0)
    if clearest < 1e-6:
        return None
    whole = np.sum([found for found, strength in maps if strength >= CLEAR * clearest], axis=0)
    strong = np.abs(_blurred(whole))
    core = _around_peak(strong >= CORE * strong.max(), np.unravel_index(strong.argmax(), strong.shape))
    weights = np.where(core, whole, 0.0)
    return weights / np.abs(weights).sum()


def _map_of(talk: Talk) -> tuple[np.ndarray, float]:
    """How much each cell [h, w] of a clip moves with the voice, at the lag at which one moves most with it; how much
    that one does."""
    moved, heard = changes(talk.grey), changes(talk.voices(np.arange(-LAGS, LAGS + 1)).T).T
    norm = np.linalg.norm(heard, axis=1, keepdims=True)
    heard = np.divide(heard, norm, out=np.zeros_like(heard), where=norm > 0)
    covariance = np.tensordot(heard, moved, (1, 0))
    peaks = [float(np.abs(_blurred(covariance[n])).max()) for n in range(len(covariance))]
    best = int(np.argmax(peaks))
    return covariance[best], peaks[best]


def _blurred(picture: np.ndarray) -> np.ndarray:
    """Means of 3 x 3."""
    padded = np.pad(picture, 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9


def _around_peak(mask: np.ndarray, peak: tuple[np.intp, ...]) -> np.ndarray:
    """The part of a mask that hangs together with the peak."""
    found = np.zeros_like(mask)
    found[peak] = True
    while True:
        grown = found.copy()
        grown[1:] |= found[:-1]
        grown[:-1] |= found[1:]
        grown[:, 1:] |= found[:, :-1]
        grown[:, :-1] |= found[:, 1:]
        grown &= mask
        if (grown == found).all():
            return found
        found = grown


def _levels(clips: Sequence[Talk], weights: np.ndarray) -> tuple[float, float]:
    """Usual value of the mouth in silence and in loud parts."""
    opening = np.concatenate([np.tensordot(talk.grey, weights, 2) for talk in clips])
    voice = np.concatenate([talk.voice() for talk in clips])
    loud = max((talk.loudness.loud for talk in clips), default=0.0)
    silent, spoken = voice < SILENT * loud, voice > 0.6 * loud
    shut = float(np.median(opening[silent])) if silent.sum() >= 4 else float(np.quantile(opening, 0.05))
    return shut, float(np.median(opening[spoken])) if spoken.any() else float(np.quantile(opening, 0.95))


def judge_mouth(talk: Talk, mouth: Mouth) -> MouthFound:
    """What a clip shows of it."""
    if len(talk.grey) < 8:
        return NOTHING
    opening = mouth.opening(talk.grey)
    moved, heard = changes(opening), changes(talk.voice())
    enough = _strength(heard) >= QUIET * mouth.movement
    sync, lag, in_time = _lag(opening, talk) if enough else (None, None, None)
    return MouthFound(sync, lag, in_time, _moves(moved, heard, mouth), _silent(opening, talk, mouth))


def _lag(opening: np.ndarray, talk: Talk) -> tuple[float, float, float]:
    """The best correlation, the lag at which it is, and the correlation without a lag."""
    moved, heard = _centred(changes(opening)), _centred(changes(talk.voices(lags()).T).T)
    norm = np.linalg.norm(heard, axis=1) * np.linalg.norm(moved)
    found = np.divide(heard @ moved, norm, out=np.zeros(len(heard)), where=norm > 1e-12)
    best = int(np.argmax(found))
    return float(found[best]), float(lags()[best]), float(found[len(found) // 2])


def _centred(values: np.ndarray) -> np.ndarray:
    return values - values.mean(axis=-1, keepdims=True)


def _moves(moved: np.ndarray, heard: np.ndarray, mouth: Mouth) -> float | None:
    """The least movement of the mouth in any stretch in which the voice moves."""
    found: list[float] = []
    span = min(SPAN, len(heard))
    for start in range(0, len(heard) - span + 1, 4):
        stretch = slice(start, start + span)
        loud = _strength(heard[stretch])
        if loud >= max(2 * QUIET * mouth.movement, 1e-9):
            found.append(_strength(moved[stretch]) / (mouth.gain * loud + 1e-9))
    return min(found, default=None)


def _silent(opening: np.ndarray, talk: Talk, mouth: Mouth) -> float | None:
    """How far the mouth stands open in a silence that has lasted a while."""
    loud, voice = talk.loudness.loud, talk.voice()
    quiet = voice < SILENT * loud
    settled = quiet.copy()
    for shift in (1, 2, 3):
        settled[shift:] &= quiet[:-shift]
    settled[:3] = False
    if settled.sum() < 4 or mouth.open <= mouth.shut:
        return None
    return float((opening[settled].mean() - mouth.shut) / (mouth.open - mouth.shut))
