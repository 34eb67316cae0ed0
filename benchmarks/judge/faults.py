"""Faults that are put into a video: at a random clip, of several sizes, once in one clip and once from it on."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from benchmarks.quality import BLOCK, CLIP, RATE
from demo.training.portraits import MOUTH_BOX

from .videos import CLIPS, Video


@dataclass(frozen=True)
class Place:
    """Where a fault is: its clip, counted from 0; whether it lasts until the end; which of the sizes; chance for the
    rest."""

    clip: int
    lasts: bool
    size: int
    rng: np.random.Generator

    @property
    def frames(self) -> slice:
        """Of the fault, when it fills its clip."""
        return slice(self.clip * CLIP, None if self.lasts else (self.clip + 1) * CLIP)


@dataclass(frozen=True)
class Faulty:
    """A video with a fault. found_in: clips of which one has to be flagged; touched: all clips that the fault changes,
    so that nothing said of them is a false alarm."""

    video: Video
    found_in: frozenset[int]
    touched: frozenset[int]


@dataclass(frozen=True)
class Fault:
    name: str
    sizes: tuple[int, ...]
    unit: str
    make: Callable[[Video, Place], Faulty]


def _touching(place: Place, found_in: set[int] | None = None) -> tuple[frozenset[int], frozenset[int]]:
    """The first frame after a clip differs from it as well."""
    last = CLIPS if place.lasts else min(place.clip + 2, CLIPS)
    return frozenset(found_in or {place.clip}), frozenset(range(place.clip, last))


def sound_shift(video: Video, place: Place) -> Faulty:
    """The sound comes so many frames later or earlier."""
    shift = int(place.rng.choice([-1, 1])) * round(place.size * RATE / video.recipe.fps)
    voice, moved = video.voice.copy(), np.zeros_like(video.voice)
    if shift > 0:
        moved[:, shift:] = voice[:, :-shift]
    else:
        moved[:, :shift] = voice[:, -shift:]
    first, end = (None if f is None else round(f * RATE / video.recipe.fps) for f in _bounds(place))
    voice[:, first:end] = moved[:, first:end]
    return Faulty(replace(video, voice=voice), *_touching(place))


def _bounds(place: Place) -> tuple[int | None, int | None]:
    return place.frames.start, place.frames.stop


def frozen_mouth(video: Video, place: Place) -> Faulty:
    """The mouth stands still for so many frames, in which the voice speaks; the rest of the face moves on."""
    frames = video.frames.copy()
    start = place.clip * CLIP + _loudest(video, place)
    mask = np.zeros((64, 64, 1))
    mask[MOUTH_BOX] = 1
    mask = cv2.GaussianBlur(mask, (0, 0), 1.5)[..., None]
    end = len(frames) if place.lasts else start + place.size
    still = frames[start : start + 1].astype(np.float64)
    frames[start:end] = (mask * still + (1 - mask) * frames[start:end]).round().astype(np.uint8)
    return Faulty(replace(video, frames=frames), *_touching(place))


def _loudest(video: Video, place: Place) -> int:
    """Frame of the clip from which on the voice moves most, for as long as the fault lasts."""
    edges = (np.arange((place.clip * CLIP), (place.clip + 1) * CLIP + 1) * RATE / float(video.recipe.fps)).astype(int)
    loud = np.array([np.sqrt(np.mean(video.voice[0, a:b] ** 2)) for a, b in zip(edges[:-1], edges[1:], strict=True)])
    moved = np.abs(np.diff(loud))
    starts = range(CLIP - place.size + 1)
    return max(starts, key=lambda start: float(moved[start : start + place.size - 1].sum()))


def other_person(video: Video, place: Place) -> Faulty:
    """Another person speaks the same, for so many frames."""
    frames = video.frames.copy()
    start = place.clip * CLIP + int(place.rng.integers((CLIP - place.size) // BLOCK + 1)) * BLOCK
    end = len(frames) if place.lasts else start + place.size
    frames[start:end] = video.others[start:end]
    return Faulty(replace(video, frames=frames), *_touching(place))


def colour_step(video: Video, place: Place) -> Faulty:
    """One colour channel, or all, brighter or darker by so many levels of 255, from some frame on."""
    frames = video.frames.astype(np.int16)
    start = place.clip * CLIP + int(place.rng.integers(CLIP // BLOCK)) * BLOCK
    end = len(frames) if place.lasts else (place.clip + 1) * CLIP
    channels = place.rng.choice([[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    frames[start:end] += (int(place.rng.choice([-1, 1])) * place.size * channels).astype(np.int16)
    return Faulty(replace(video, frames=frames.clip(0, 255).astype(np.uint8)), *_touching(place))


def dropped_block(video: Video, place: Place) -> Faulty:
    """A block is missing, so that the picture runs ahead of the sound; or (`lasts` off) it shows the frame before it.

    Where the missing one is a clip's last, the next clip is the first that is wrong.
    """
    block = int(place.rng.integers(1 if place.clip == 0 else 0, CLIP // BLOCK))
    start, frames = place.clip * CLIP + block * BLOCK, video.frames
    end = start + place.size * BLOCK
    if place.lasts:
        rest = frames[end:]
        frames = np.concatenate([frames[:start], rest])
        return Faulty(replace(video, frames=frames), *_touching(place, {place.clip, min(place.clip + 1, CLIPS - 1)}))
    frames = frames.copy()
    frames[start:end] = frames[start - 1]
    return Faulty(replace(video, frames=frames), *_touching(place))


FAULTS = (
    Fault("sound shifted", (2, 3, 5), "frames", sound_shift),
    Fault("mouth frozen", (24, 36, 48), "frames", frozen_mouth),
    Fault("other person", (12, 24, 48), "frames", other_person),
    Fault("colour step", (6, 12, 24), "levels", colour_step),
    Fault("block dropped", (1, 2), "blocks", dropped_block),
)
