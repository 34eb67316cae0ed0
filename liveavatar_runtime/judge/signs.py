"""What is kept of a frame: a small picture of the face, its colours, how it differs from the one before."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

GRID = 64
"""Cells of the longer side of the small grey picture."""
TILES = 12
"""Cells of both sides of the colour picture of the whole frame."""
LIKENESS_SIDE = 24
"""Cells of both sides of the colour picture by which a face is compared."""
ENOUGH = 128
"""Pixels of the shorter side of what is read."""
SHARPNESS_STEP = 4
"""Frames from one whose sharpness is measured to the next."""


@dataclass(frozen=True)
class Region:
    """The part of a frame that is looked at, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, frames: np.ndarray) -> np.ndarray:
        """Its part of frames [..., H, W, C]."""
        return frames[..., self.top : self.top + self.height, self.left : self.left + self.width, :]


@dataclass(frozen=True, eq=False)
class Signs:
    """Of n frames in a row. grey: [n, h, w] of 0..255; colours: [n,
    TILES, TILES, 3], of the whole frame; steps: [n], mean
    difference of the whole frame to the frame before, infinite where there is none; likeness: [blocks,
    LIKENESS_SIDE, LIKENESS_SIDE, 3], means of the frames of each block; sharpness: of fine detail."""

    grey: np.ndarray
    colours: np.ndarray
    steps: np.ndarray
    likeness: np.ndarray
    sharpness: float


def thinned(frame: np.ndarray) -> np.ndarray:
    """Every second row and column of a large picture, or fewer: its cells have pixels enough, and it costs less."""
    step = max(1, min(frame.shape[:2]) // ENOUGH)
    return frame[::step, ::step]


def luma(frames: np.ndarray) -> np.ndarray:
    """uint8 [..., 3] -> uint16 [...] of 0..1020; whole numbers, so that no machine rounds in another way."""
    parts = frames.astype(np.uint16)
    return parts[..., 0] + 2 * parts[..., 1] + parts[..., 2]


def reduced(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Means of the cells of a picture [H, W, ...] as a smaller one [height, width, ...], float32."""
    rows, columns, counts = _cells(values.shape[:2], (height, width))
    sums = np.add.reduceat(np.add.reduceat(values, rows, axis=0, dtype=np.uint32), columns, axis=1, dtype=np.uint32)
    return sums / counts.reshape(height, width, *[1] * (values.ndim - 2))


@lru_cache(16)
def _cells(size: tuple[int, ...], cells: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First row and first column of each cell of a picture, and how many pixels a cell has (float32)."""
    rows, columns = (np.arange(count) * side // count for side, count in zip(size, cells, strict=True))
    counts = np.outer(np.diff(rows, append=size[0]), np.diff(columns, append=size[1]))
    return rows, columns, counts.astype(np.float32)


def grid_of(region: Region) -> tuple[int, int]:
    """Height and width of the small grey picture of a region."""
    scale = min(1.0, GRID / max(region.height, region.width))
    return max(1, round(region.height * scale)), max(1, round(region.width * scale))


class SignReader:
    """Reads frames one after the other; what it gives does not depend on how many come at a time."""

    def __init__(self) -> None:
        self._before: np.ndarray | None = None

    def read(self, frame: np.ndarray, region: Region) -> "FrameSigns":
        """uint8 [H, W, 3]"""
        thin, part = thinned(frame), thinned(region.of(frame))
        grey = luma(thin)
        before, self._before = self._before, grey
        step = np.inf if before is None else float(_distance(grey, before)) / 4
        small = (reduced(luma(part), *grid_of(region)) / 4).astype(np.float32)
        sides = min(LIKENESS_SIDE, part.shape[0]), min(LIKENESS_SIDE, part.shape[1])
        colours = reduced(thin, min(TILES, thin.shape[0]), min(TILES, thin.shape[1]))
        return FrameSigns(small, colours, step, reduced(part, *sides))


def sharpness_of(frame: np.ndarray) -> float:
    """Mean of the second differences of a frame's brightness."""
    grey = luma(frame).astype(np.int16)
    across = 2 * grey[:, 1:-1] - grey[:, :-2] - grey[:, 2:]
    down = 2 * grey[1:-1] - grey[:-2] - grey[2:]
    return float(np.abs(across).mean() + np.abs(down).mean()) / 4


def _distance(one: np.ndarray, other: np.ndarray) -> np.floating:
    return np.abs(one.astype(np.int16) - other.astype(np.int16)).mean()


@dataclass(frozen=True, eq=False)
class FrameSigns:
    """Of one frame, as `Signs`."""

    grey: np.ndarray
    colours: np.ndarray
    step: float
    likeness: np.ndarray


def together(frames: list[FrameSigns], sharpness: list[float], block: int) -> Signs:
    """Of the frames of a clip."""
    starts = range(0, len(frames), block)
    return Signs(
        np.stack([frame.grey for frame in frames]),
        np.stack([frame.colours for frame in frames]),
        np.array([frame.step for frame in frames]),
        np.stack([np.mean([frame.likeness for frame in frames[start : start + block]], axis=0) for start in starts]),
        float(np.median(sharpness)) if sharpness else 0.0,
    )
