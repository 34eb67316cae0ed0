"""What the clips of a video are compared with: its picture, and the clip that shows it best."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .likeness import features, likeness, picture_difference, picture_shift
from .signs import LIKENESS_SIDE, Region, Signs, reduced, thinned
from .steps import colour_shift

NEARER, NEARER_COLOUR = 12.0, 2.5
"""Levels of 255 by which what comes later must be nearer to the picture than what comes first, in shape and in colour,
to be compared with instead."""
UNSETTLED = 2
"""Blocks at the beginning that a prompt may paint anew."""


@dataclass(frozen=True, eq=False)
class Reference:
    """features, colours [h, w, 3], sharpness: of the clip that all others are compared with. picture: small, [h, w, 3];
    None where none was given."""

    features: np.ndarray
    colours: np.ndarray
    sharpness: float
    picture: np.ndarray | None = None

    @classmethod
    def of(cls, clips: Sequence[Signs], picture: np.ndarray | None) -> "Reference":
        """The first clip; with a picture an early one, or one of its blocks, that is clearly nearer to it, since the
        first may be the one that went wrong."""
        clip = clips[0] if picture is None else clips[_nearest(clips, picture)]
        colours = _colours_of(clips, clip, picture)
        return cls(features(np.median(clip.likeness, axis=0)), colours, clip.sharpness, picture)

    def likeness(self, clip: Signs) -> float:
        """Of the block that is least like it."""
        return float(likeness(features(clip.likeness), self.features).min())

    def to_picture(self, clip: Signs) -> float | None:
        """Levels of 255 by which the face differs from the picture's, in the block that differs most."""
        if self.picture is None:
            return None
        return max(picture_difference(block, self.picture) for block in clip.likeness)

    def colour(self, clip: Signs, unsettled: int = 0) -> float | None:
        """The largest shift of a channel, of any block after the first `unsettled` frames, in levels."""
        size = -(-len(clip.colours) // len(clip.likeness))
        starts = range(unsettled, len(clip.colours), size)
        shifts = [colour_shift(clip.colours[start : start + size].mean(axis=0) - self.colours) for start in starts]
        return max(shifts, default=None)


def _nearest(clips: Sequence[Signs], picture: np.ndarray) -> int:
    """Of the clips, the one whose person it is."""
    return _clearly_least([picture_difference(np.median(clip.likeness, axis=0), picture) for clip in clips], NEARER)


def _colours_of(clips: Sequence[Signs], first: Signs, picture: np.ndarray | None) -> np.ndarray:
    """Colours [h, w, 3] of a block that has the picture's, the earliest one; without a picture of the settled first."""
    settled = [(clip, block) for clip in clips for block in range(len(clip.likeness))]
    settled = settled[min(UNSETTLED, len(first.likeness) - 1) :]
    if picture is None:
        return first.colours[len(first.colours) // 2 :].mean(axis=0)
    place = _clearly_least([picture_shift(clip.likeness[block], picture) for clip, block in settled], NEARER_COLOUR)
    clip, block = settled[place]
    return np.array_split(clip.colours, len(clip.likeness))[block].mean(axis=0)


def _clearly_least(values: Sequence[float], margin: float) -> int:
    """Place of the least value, if it is less than the first one by more than a margin; else 0."""
    best = int(np.argmin(values))
    return best if values[best] < values[0] - margin else 0


def small_picture(pixels: np.ndarray, region: Region) -> np.ndarray:
    """A picture in the video's size, uint8 [H, W, 3], as clips are compared with it."""
    part = thinned(region.of(pixels))
    return reduced(part, min(LIKENESS_SIDE, part.shape[0]), min(LIKENESS_SIDE, part.shape[1]))
