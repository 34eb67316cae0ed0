"""Voices for training: what espeak-ng says in several languages, men, women, children, singing, noise behind.

Every track comes with what its speaker's mouth does, 50 times a second: `Track`.
"""

import json
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from liveavatar_runtime.duration import FEATURE_RATE

from .espeak import Manner, Spoken, speak
from .visemes import group_of, viseme

FILE = Path(__file__).with_name("languages.json")
RATE = 16_000
"""Samples a second of a track."""
TOGETHER = 0.030
"""Seconds over which one mouth becomes the next: lips do not jump."""
AHEAD = 0.02
"""Seconds by which a mouth is there before its sound."""


@dataclass(frozen=True)
class Language:
    """Words, voices of espeak-ng for training, a voice that is held out, and words that are (those of training where
    there are none)."""

    words: list[str]
    voices: list[str]
    held_out_voice: str
    held_out_words: list[str]


@cache
def languages() -> dict[str, Language]:
    found = json.loads(FILE.read_text(encoding="utf-8"))
    return {
        name: Language(
            one["words"].split(),
            one["voices"],
            one["held_out_voice"],
            one.get("held_out_words", one["words"]).split(),
        )
        for name, one in found.items()
    }


@dataclass(frozen=True)
class Track:
    """sound [1, S] at 16 kHz; mouths [T, 5], as `Mouth`, at 50 a second; vowels [T]: a group's letter or ""."""

    sound: Tensor
    mouths: np.ndarray
    vowels: list[str]


def track_of(rng: np.random.Generator, seconds: float, held_out: bool = False) -> Track:
    """A track of so many seconds: mostly speech with pauses, now and then singing, and for training some silence."""
    if not held_out and rng.random() < 0.04:
        return _joined([], seconds, rng, noise=rng.random() < 0.5)
    name = "en" if held_out and rng.random() < 0.5 else str(rng.choice(list(languages())))
    language = languages()[name]
    voice = language.held_out_voice if held_out else str(rng.choice(language.voices))
    words = language.held_out_words if held_out else language.words
    child, sings = rng.random() < 0.15, rng.random() < 0.15
    manner = Manner(voice, int(rng.integers(125, 185)), int(rng.integers(25, 80)))
    parts: list[Spoken] = []
    length = 0.0
    while length < seconds:
        said = _sung(rng, words, manner) if sings else [speak(_sentence(rng, words), manner)]
        parts += [_as_a_child(one) if child else one for one in said]
        parts.append(_pause(rng))
        length = sum(len(part.samples) / part.rate for part in parts)
    return _joined(parts, seconds, rng, noise=rng.random() < 0.4)


def _sentence(rng: np.random.Generator, words: list[str]) -> str:
    groups = [" ".join(rng.choice(words, int(rng.integers(2, 6)))) for _ in range(int(rng.integers(1, 4)))]
    return ", ".join(groups) + "."


def _sung(rng: np.random.Generator, words: list[str], manner: Manner) -> list[Spoken]:
    """Words on notes of their own, slowly."""
    notes = rng.choice((20, 35, 50, 60, 75, 90), int(rng.integers(3, 7)))
    return [speak(str(rng.choice(words)), Manner(manner.voice, 85, int(note), 0)) for note in notes]


def _as_a_child(spoken: Spoken) -> Spoken:
    """The same with a shorter throat: all frequencies by a fifth higher, and as much faster."""
    return Spoken(spoken.samples, round(spoken.rate * 1.2), spoken.phonemes)


def _pause(rng: np.random.Generator) -> Spoken:
    seconds = rng.uniform(0.05, 0.5) if rng.random() < 0.7 else rng.uniform(0.5, 1.5)
    return Spoken(np.zeros(int(seconds * RATE), np.float32), RATE, [(0, "_")])


def _joined(parts: list[Spoken], seconds: float, rng: np.random.Generator, noise: bool) -> Track:
    from torchaudio.functional import resample

    count = int(seconds * RATE)
    sound, phonemes, length = [torch.zeros(0)], [(0.0, "_")], 0
    for part in parts:
        samples = torch.from_numpy(part.samples)
        samples = samples if part.rate == RATE else resample(samples, part.rate, RATE)
        phonemes += [(length / RATE + at / part.rate, name) for at, name in part.phonemes]
        sound.append(samples)
        length += len(samples)
    whole = torch.cat([*sound, torch.zeros(count)])[:count]
    if noise:
        loudness = 10 ** (rng.uniform(-45, -22) / 20) * (float(whole.square().mean().sqrt()) or 0.1)
        whole = whole + loudness * _noise(rng, count)
    frames = int(seconds * FEATURE_RATE)
    mouths, vowels = mouths_of(phonemes, frames)
    return Track(whole[None].contiguous(), mouths, vowels)


def _noise(rng: np.random.Generator, count: int) -> Tensor:
    """Of a room: lower frequencies are louder."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    spectrum /= np.maximum(np.arange(len(spectrum)), 40) ** float(rng.uniform(0.0, 0.8))
    noise = np.fft.irfft(spectrum, count)
    return torch.from_numpy((noise / noise.std()).astype(np.float32))


def mouths_of(phonemes: list[tuple[float, str]], frames: int) -> tuple[np.ndarray, list[str]]:
    """Mouths [frames, 5] at 50 a second of phonemes with the seconds they begin at, and the vowels' groups."""
    fine = 4
    times = (np.arange(frames * fine) + 0.5) / (FEATURE_RATE * fine) + AHEAD
    rows = np.zeros((frames * fine, 5))
    vowels = [""] * frames
    ends = [begin for begin, _ in phonemes[1:]] + [np.inf]
    for (begin, phoneme), end in zip(phonemes, ends, strict=True):
        first, last = viseme(phoneme)
        inside = (times >= begin) & (times < end)
        if inside.any():
            share = np.clip((times[inside] - begin) / max(min(end, begin + 1.0) - begin, 1e-3), 0, 1)[:, None]
            rows[inside] = np.array(astuple(first)) * (1 - share) + np.array(astuple(last)) * share
        group = group_of(phoneme)
        if group is not None and first == last and np.isfinite(end):
            for frame in range(int(begin * FEATURE_RATE) + 1, min(int(end * FEATURE_RATE), frames)):
                vowels[frame] = group
    smooth = smoothed(rows, TOGETHER * FEATURE_RATE * fine)
    return smooth.reshape(frames, fine, 5).mean(axis=1), vowels


def smoothed(rows: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian mean over time of rows [T, n]; before and after they are as at their ends. sigma: in rows."""
    reach = max(int(3 * sigma), 1)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    padded = np.pad(rows, ((reach, reach), (0, 0)), mode="edge")
    return np.stack([np.convolve(column, kernel / kernel.sum(), mode="valid") for column in padded.T], axis=1)
