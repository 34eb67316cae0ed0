"""Whether a clip shows the person of the picture: the face's small picture, whatever the light on it."""

import numpy as np

SOFTNESS = 8.0
"""Levels of 255 below which differences in brightness are no features."""
FACE = (0.75, 0.67)
"""Of height and width of what is looked at, the ellipse of a face."""


def features(picture: np.ndarray) -> np.ndarray:
    """Of a small colour picture [..., h, w, 3] of 0..255: its local structure and its colours, of length 1 each.

    Structure is brightness against that around it, so that light takes no part; colours are without brightness.
    """
    grey = picture.mean(axis=-1)
    around = _mean_around(grey)
    contrast = grey - around
    spread = np.sqrt(_mean_around(contrast**2)) + SOFTNESS
    tint = picture - picture.mean(axis=-1, keepdims=True)
    tint = tint - tint.mean(axis=(-3, -2), keepdims=True)
    before = picture.shape[:-3]
    return np.concatenate([_unit((contrast / spread).reshape(*before, -1)), _unit(tint.reshape(*before, -1))], axis=-1)


def likeness(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of features [..., f] to others [f], 1 when they are the same."""
    return one @ other / 2


def picture_difference(face: np.ndarray, picture: np.ndarray) -> float:
    """Mean difference of two small pictures [h, w, 3] in their middle, where the face is, in levels of 255: what is
    around it may be painted by a prompt. A difference that all of it shares is light and does not count."""
    difference = _in_the_middle(face - picture)
    return float(np.abs(difference - np.median(difference, axis=0)).max(axis=-1).mean())


def picture_shift(face: np.ndarray, picture: np.ndarray) -> float:
    """The difference that all of the middle shares, in the channel that has most of it, in levels of 255."""
    return float(np.abs(np.median(_in_the_middle(face - picture), axis=0)).max())


def _in_the_middle(values: np.ndarray) -> np.ndarray:
    """Those of [h, w, c] within the ellipse of a face, [n, c]."""
    height, width = values.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    centre = ((y - height / 2) / (FACE[0] * height / 2)) ** 2 + ((x - width / 2) / (FACE[1] * width / 2)) ** 2 < 1
    return values[centre]


def _unit(values: np.ndarray) -> np.ndarray:
    """Of [..., f], to length 1."""
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-9)


def _mean_around(grey: np.ndarray) -> np.ndarray:
    """Means of 5 x 5 around each cell of [..., h, w]."""
    padded = np.pad(grey, [*[(0, 0)] * (grey.ndim - 2), (2, 2), (2, 2)], mode="edge")
    height, width = grey.shape[-2:]
    rows = np.mean([padded[..., shift : shift + height, :] for shift in range(5)], axis=0)
    return np.mean([rows[..., shift : shift + width] for shift in range(5)], axis=0)
