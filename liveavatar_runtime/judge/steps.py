"""What happens from frame to frame: pictures that stand still, jumps, seams, steps of colour."""

from dataclasses import dataclass

import numpy as np

from .signs import Signs

BEFORE = 6
"""Frames of the clip before that are looked at with a clip, and frames that a colour is averaged over."""
STILL = 0.1
"""Of the usual step, below which a frame repeats the one before."""
NEAR = 2
"""Frames to both sides of a step that it is compared with."""


@dataclass(frozen=True, eq=False)
class Course:
    """A clip with the end of the one before it. steps: [b + n]; colours: [b + n, h, w, 3]; before: b; usual: the usual
    step; block: frames from one border to the next; unsettled: first frames of the clip, which a prompt may paint."""

    steps: np.ndarray
    colours: np.ndarray
    before: int
    usual: float
    block: int
    unsettled: int = 0

    @classmethod
    def of(cls, clip: Signs, last: Signs | None, usual: float, block: int) -> "Course":
        if last is None:
            return cls(clip.steps, clip.colours, 0, usual, block)
        steps = np.concatenate([last.steps[-BEFORE:], clip.steps])
        colours = np.concatenate([last.colours[-BEFORE:], clip.colours])
        return cls(steps, colours, min(BEFORE, len(last.steps)), usual, block)


@dataclass(frozen=True)
class StepsFound:
    """still: the most frames in a row that repeat the one before; seam, jump: by how much the largest step at a border
    of blocks and elsewhere exceeds those around it, in usual steps; colour_step: the largest change of colour at once,
    in levels of 255."""

    still: float
    seam: float | None
    jump: float | None
    colour_step: float | None


def judge_steps(course: Course) -> StepsFound:
    """What a clip shows of it."""
    excess = _excess(course)
    places = np.arange(len(course.steps)) - course.before
    inside, borders = places >= 0, places % course.block == 0
    settled = places >= course.unsettled
    return StepsFound(
        still=float(_longest(course.steps[inside] < STILL * course.usual)),
        seam=_largest(excess[settled & borders]),
        jump=_largest(excess[settled & ~borders]),
        colour_step=_colour_step(course),
    )


def _excess(course: Course) -> np.ndarray:
    """[b + n]: by how much each step exceeds those around it, in usual steps; none of the first frame of a video."""
    steps = np.where(np.isfinite(course.steps), course.steps, np.nan)
    found = np.full(len(steps), np.nan)
    unit = max(course.usual, 1e-6)
    for at in range(len(steps)):
        around = [steps[n] for n in range(at - NEAR, at + NEAR + 1) if n != at and 0 <= n < len(steps)]
        around = [value for value in around if np.isfinite(value)]
        if around and np.isfinite(steps[at]):
            found[at] = (steps[at] - max(around)) / unit
    return found


def _largest(values: np.ndarray) -> float | None:
    values = values[np.isfinite(values)]
    return float(values.max()) if len(values) else None


def _longest(mask: np.ndarray) -> int:
    """The most True in a row."""
    longest = run = 0
    for value in mask:
        run = run + 1 if value else 0
        longest = max(longest, run)
    return longest


def _colour_step(course: Course) -> float | None:
    """Between the means of some frames before and after each frame of the clip; both have settled."""
    count = len(course.colours) - BEFORE + 1
    first = max(course.before + course.unsettled, BEFORE)
    if first >= count:
        return None
    sums = np.cumsum(np.concatenate([np.zeros_like(course.colours[:1]), course.colours]), axis=0, dtype=np.float64)
    means = (sums[BEFORE:] - sums[:-BEFORE]) / BEFORE
    return max(colour_shift(means[at] - means[at - BEFORE]) for at in range(first, count))


def colour_shift(difference: np.ndarray) -> float:
    """Of the differences of cells [h, w, 3], what all of them share, in the channel that has most of it: what moves
    changes some cells, and light changes all."""
    return float(np.abs(np.median(difference, axis=(0, 1))).max())
