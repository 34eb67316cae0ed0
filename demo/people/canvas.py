"""Soft shapes on a picture: polygons with smooth edges, colours that follow a light, and places that move with a head.

Lengths are in units of a picture 128 wide and high, whatever the size drawn.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

Color = tuple[float, float, float]
"""RGB in 0..255."""
Point = tuple[float, float]

UNITS = 128
OVERSAMPLING = 2
SHIFT_BITS = 4


def circle(centre: Point, radii: Point, points: int = 40) -> np.ndarray:
    """Outline of an ellipse, [points, 2]."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([centre[0] + radii[0] * np.cos(angle), centre[1] + radii[1] * np.sin(angle)], axis=1)


def curve(points: list[Point], steps: int = 8) -> np.ndarray:
    """A smooth line (Catmull-Rom) through points, [steps * (len(points) - 1) + 1, 2]."""
    given = np.asarray(points, np.float64)
    padded = np.concatenate([2 * given[:1] - given[1:2], given, 2 * given[-1:] - given[-2:-1]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    parts = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False)
    ]
    return np.concatenate([*parts, given[-1:]])


def mirrored(points: list[Point], axis: float = 64.0) -> list[Point]:
    """A left half, listed from top to bottom, with its right half: an outline once around."""
    return [*points, *((2 * axis - x, y) for x, y in reversed(points))]


def mixed(one: Color, other: Color, share: float) -> Color:
    """`share` of the other colour."""
    a, b = np.asarray(one), np.asarray(other)
    red, green, blue = np.clip(a + share * (b - a), 0, 255).tolist()
    return red, green, blue


def lit(color: Color, by: float) -> Color:
    """Brighter or darker."""
    red, green, blue = np.clip(np.asarray(color) * by, 0, 255).tolist()
    return red, green, blue


Light = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From places x, y in units to what colours are multiplied with."""


def even(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.ones_like(x)


def round_light(centre: Point, radii: Point, depth: float = 0.16) -> Light:
    """Of something round that is lit from the upper left."""

    def light(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        u, v = (x - centre[0]) / radii[0], (y - centre[1]) / radii[1]
        edge = np.clip(u * u + v * v, 0, 1.4)
        return 1 + depth * (0.35 - 0.45 * u - 0.55 * v) - 0.8 * depth * edge * edge

    return light


@dataclass(frozen=True)
class Canvas:
    """float32 RGB [side, side, 3] in 0..255, drawn on in place through a map [2, 3] of units to pixels."""

    pixels: np.ndarray
    to_pixels: np.ndarray
    clip: np.ndarray | None = None
    """[side, side] in 0..1: how much of what is drawn is seen."""

    @classmethod
    def of_size(cls, size: int) -> "Canvas":
        side = size * OVERSAMPLING
        scale = side / UNITS
        return cls(np.zeros((side, side, 3), np.float32), np.array([[scale, 0, 0], [0, scale, 0]], np.float64))

    def enlarged(self, by: float, centre: Point) -> "Canvas":
        """For what is drawn larger about a point."""
        scaled = self.to_pixels.copy()
        scaled[:, :2] *= by
        scaled[:, 2] += self.to_pixels[:, :2] @ np.asarray(centre) * (1 - by)
        return replace(self, to_pixels=scaled)

    def moved(self, x: float, y: float) -> "Canvas":
        """For what is drawn x, y units further."""
        moved = self.to_pixels.copy()
        moved[:, 2] += self.to_pixels[:, :2] @ (x, y)
        return replace(self, to_pixels=moved)

    def turned(self, degrees: float, pivot: Point) -> "Canvas":
        """For what is drawn turned about a point, clockwise."""
        angle = np.deg2rad(degrees)
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.array([[cos, -sin], [sin, cos]])
        offset = np.asarray(pivot) - turn @ np.asarray(pivot)
        return replace(self, to_pixels=np.column_stack([self.to_pixels[:, :2] @ turn, self.mapped(offset[None])[0]]))

    def mapped(self, points: np.ndarray) -> np.ndarray:
        """Pixels [N, 2] of points [N, 2]."""
        return points @ self.to_pixels[:, :2].T + self.to_pixels[:, 2]

    def within(self, outline: np.ndarray) -> "Canvas":
        """For what is seen inside an outline only."""
        mask = np.zeros(self.pixels.shape[:2], np.uint8)
        cv2.fillPoly(mask, [self._fixed(outline)], 255, cv2.LINE_AA, SHIFT_BITS)
        seen = mask.astype(np.float32) / 255
        return replace(self, clip=seen if self.clip is None else seen * self.clip)

    def fill(
        self, outline: np.ndarray, color: Color, light: Light = even, blur: float = 0.0, strength: float = 1.0
    ) -> None:
        """A shape, its edge blurred by so many units; `strength` in 0..1 of it covers what is below."""
        side = len(self.pixels)
        places = self.mapped(outline)
        sigma = blur * abs(self.to_pixels[0, 0])
        margin = int(3 * sigma) + 2
        low = np.clip(np.floor(places.min(axis=0)).astype(int) - margin, 0, side)
        high = np.clip(np.ceil(places.max(axis=0)).astype(int) + margin + 1, 0, side)
        if (high <= low).any() or strength <= 0:
            return
        mask = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
        cv2.fillPoly(mask, [self._fixed(outline, low)], 255, cv2.LINE_AA, SHIFT_BITS)
        if sigma > 0.3:
            mask = cv2.GaussianBlur(mask, (0, 0), sigma)
        part = (slice(low[1], high[1]), slice(low[0], high[0]))
        alpha = mask.astype(np.float32) * (strength / 255)
        if self.clip is not None:
            alpha *= self.clip[part]
        below = self.pixels[part]
        paint = np.asarray(color, np.float32)
        if light is not even:
            paint = np.minimum(paint * self._light(light, low, high)[..., None], 255)
        below += alpha[..., None] * (paint - below)

    def stroke(self, line: np.ndarray, color: Color, width: float, strength: float = 1.0) -> None:
        """A line [N, 2], thinner at its ends."""
        along = np.gradient(line, axis=0)
        across = np.stack([-along[:, 1], along[:, 0]], axis=1) / (np.linalg.norm(along, axis=1)[:, None] + 1e-9)
        half = 0.5 * width * (0.35 + 0.65 * np.sin(np.linspace(0, np.pi, len(line))))[:, None]
        self.fill(np.concatenate([line + half * across, (line - half * across)[::-1]]), color, strength=strength)

    def picture(self, size: int) -> np.ndarray:
        """uint8 [size, size, 3]."""
        small = cv2.resize(self.pixels, (size, size), interpolation=cv2.INTER_AREA)
        return np.clip(small + 0.5, 0, 255).astype(np.uint8)

    def _light(self, light: Light, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        x, y = np.arange(low[0], high[0], dtype=np.float32), np.arange(low[1], high[1], dtype=np.float32)
        back = np.linalg.inv(self.to_pixels[:, :2]).astype(np.float32)
        dx, dy = x - np.float32(self.to_pixels[0, 2]), y[:, None] - np.float32(self.to_pixels[1, 2])
        return light(back[0, 0] * dx + back[0, 1] * dy, back[1, 0] * dx + back[1, 1] * dy).astype(np.float32)

    def _fixed(self, points: np.ndarray, origin: np.ndarray | None = None) -> np.ndarray:
        places = self.mapped(points) - (0 if origin is None else origin)
        return (places * 2**SHIFT_BITS).round().astype(np.int32)
