"""What can be measured in decoded frames: mouth, lag, likeness, wall, seams. Frames are uint8 [T, H, W, 3]."""

from dataclasses import replace

import cv2
import numpy as np

from demo.training.portraits import WALLS, Person, Pose, draw

MOUTH_INSIDE = (slice(43, 53), slice(26, 38))
"""Where, in a picture of 64 x 64, an open mouth is dark."""
CORNERS = (slice(2, 12), [0, 1, 2, 3, 60, 61, 62, 63])
MAX_LAG = 8


def luma(frames: np.ndarray) -> np.ndarray:
    return frames.astype(np.float64) @ np.array([0.299, 0.587, 0.114])


def mouth_opening(frames: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """[T]: how much darker than in the reference picture the inside of the mouth is."""
    darker = luma(reference)[MOUTH_INSIDE] - luma(frames)[(slice(None), *MOUTH_INSIDE)]
    return np.clip(darker, 0, None).mean(axis=(1, 2))


def frame_energy(waveform: np.ndarray, rate: int, fps: float, frames: int) -> np.ndarray:
    """[T]: root mean square of the 160 ms around each frame's time; silence after the end."""
    half = int(0.08 * rate)
    squares = np.concatenate([[0.0], np.cumsum(np.pad(waveform.astype(np.float64) ** 2, half))])
    starts = (np.arange(frames) / fps * rate).astype(int)
    ends = np.minimum(starts + 2 * half, len(squares) - 1)
    return np.sqrt((squares[ends] - squares[np.minimum(starts, ends)]) / (2 * half))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's; 0 where one of them does not move."""
    if a.std() < 1e-9 or b.std() < 1e-9:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def best_lag(opening: np.ndarray, energy: np.ndarray) -> int:
    """Frames by which the mouth comes after the sound, at the highest correlation."""
    n = len(opening)

    def shifted(lag: int) -> float:
        return correlation(opening[max(lag, 0) : n + min(lag, 0)], energy[max(-lag, 0) : n - max(lag, 0)])

    return max(range(-MAX_LAG, MAX_LAG + 1), key=shifted)


def still_parts(person: Person, wall_too: bool) -> np.ndarray:
    """bool [64, 64]: pixels that no pose of the person changes; without the wall where a prompt may repaint it."""
    extremes = [Pose(lift=1), Pose(turn=1), Pose(lift=1, turn=1), Pose(mouth=1, blink=1), Pose(mouth=1, tongue=1)]
    reference = draw(person, Pose()).astype(int)
    others = [draw(person, pose) for pose in extremes]
    if not wall_too:
        others.append(draw(replace(person, wall=tuple(255 - c for c in person.wall)), Pose()))
    return np.all([np.abs(other - reference).max(axis=-1) <= 3 for other in others], axis=0)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """dB between two uint8 arrays, over everything."""
    error = np.square(a.astype(np.float64) - b).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Mean structural similarity of the luma of two videos, 11 x 11 Gaussian windows as in the original paper."""
    return float(np.mean([_ssim(x, y) for x, y in zip(luma(a), luma(b), strict=True)]))


def _ssim(a: np.ndarray, b: np.ndarray) -> float:
    def local(x: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(x, (11, 11), 1.5)[5:-5, 5:-5]

    mean_a, mean_b = local(a), local(b)
    var_a, var_b = local(a * a) - mean_a**2, local(b * b) - mean_b**2
    both = local(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    index = ((2 * mean_a * mean_b + c1) * (2 * both + c2)) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return float(index.mean())


def wall_word(frames: np.ndarray) -> str:
    """The named colour nearest to the wall's median colour beside the head."""
    colour = np.median(frames[:, CORNERS[0]][:, :, CORNERS[1]], axis=(0, 1, 2))
    return min(WALLS, key=lambda word: float(np.square(colour - WALLS[word]).sum()))


def seam_ratio(frames: np.ndarray, border: int, step: int) -> float:
    """Median frame difference at every `border` frames, over that at the other multiples of `step` frames."""
    difference = np.abs(frames[1:].astype(np.int16) - frames[:-1]).mean(axis=(1, 2, 3))
    after = np.arange(1, len(frames))
    inside = np.median(difference[(after % step == 0) & (after % border != 0)])
    return float(np.median(difference[after % border == 0]) / max(inside, 1e-9))
