"""Procedural talking portraits: a seeded person, drawn in any pose of mouth, eyes and head.

Lengths are in units of a picture 64 wide and high, whatever the size drawn.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

Color = tuple[int, int, int]
"""RGB."""
Point = tuple[float, float]

UNITS = 64
OVERSAMPLING = 2
SHIFT_BITS = 4

WALLS: dict[str, Color] = {
    "red": (205, 55, 55),
    "green": (60, 165, 85),
    "blue": (55, 95, 210),
    "yellow": (235, 210, 80),
    "purple": (140, 70, 175),
    "orange": (238, 140, 45),
    "white": (242, 242, 240),
    "black": (30, 30, 36),
}
"""Wall colours that a prompt can ask for, by the word it uses."""

SKINS: tuple[Color, ...] = ((250, 215, 190), (238, 192, 160), (222, 172, 134), (196, 144, 106), (172, 122, 90))
HAIRS: tuple[Color, ...] = (
    (45, 32, 30), (84, 54, 40), (128, 80, 48), (196, 150, 84), (150, 60, 40), (150, 150, 155), (60, 60, 100),
)  # fmt: skip
IRISES: tuple[Color, ...] = ((70, 45, 30), (60, 110, 80), (60, 100, 165), (90, 90, 95))
HAIR_STYLES = ("short", "long", "bob", "curly", "parted")

MOUTH_BOX = (slice(41, 55), slice(20, 44))
"""Rows and columns, in units, that a mouth can cover in any pose."""
EYE_BOX = (slice(24, 36), slice(16, 48))


@dataclass(frozen=True, kw_only=True)
class Person:
    """What stays the same in a video."""

    skin: Color
    hair: Color
    hair_style: str
    wall: Color
    clothes: Color
    collar: Color
    iris: Color
    lips: Color
    face: Point
    eye_gap: float
    eye_size: float
    mouth_width: float
    brow: float
    glasses: bool


@dataclass(frozen=True, kw_only=True)
class Pose:
    """What moves, each 0..1: opening of the mouth, redness inside it, closing of the eyes, lift of head and brows,
    turn of the head to the side. All zeros is the reference picture."""

    mouth: float = 0.0
    tongue: float = 0.0
    blink: float = 0.0
    lift: float = 0.0
    turn: float = 0.0


def draw_person(seed: int) -> Person:
    """The person of a seed."""
    rng = np.random.default_rng(seed)

    def varied(color: Color, spread: int) -> Color:
        return _color(np.asarray(color) + rng.integers(-spread, spread + 1, 3))

    skin = varied(SKINS[rng.integers(len(SKINS))], 8)
    return Person(
        skin=skin,
        hair=varied(HAIRS[rng.integers(len(HAIRS))], 14),
        hair_style=HAIR_STYLES[rng.integers(len(HAIR_STYLES))],
        wall=_color(rng.integers(40, 240, 3)),
        clothes=_color(rng.integers(30, 230, 3)),
        collar=_color(rng.integers(60, 250, 3)),
        iris=varied(IRISES[rng.integers(len(IRISES))], 10),
        lips=_color(0.55 * np.asarray(skin) + 0.45 * np.asarray((190, 50, 60))),
        face=(float(rng.uniform(15.5, 18.5)), float(rng.uniform(20.5, 23.0))),
        eye_gap=float(rng.uniform(7.2, 8.8)),
        eye_size=float(rng.uniform(3.2, 4.2)),
        mouth_width=float(rng.uniform(6.0, 7.8)),
        brow=float(rng.uniform(1.0, 1.9)),
        glasses=bool(rng.random() < 0.15),
    )


def in_front_of(person: Person, word: str | None) -> Person:
    """The person before the wall that a prompt's colour word asks for; None keeps the picture's own."""
    return person if word is None else replace(person, wall=WALLS[word])


def draw(person: Person, pose: Pose, size: int = UNITS) -> np.ndarray:
    """One frame, uint8 RGB [size, size, 3]."""
    side = size * OVERSAMPLING
    brush = _Brush(np.empty((side, side, 3), np.uint8), side / UNITS)
    _wall(brush, person)
    lift, turn = -2.0 * pose.lift, 3.0 * pose.turn
    head = brush.moved(turn, lift)
    _hair_behind(head, person)
    _body(brush, person, (turn, lift))
    _face(head, person)
    _eyes(brush.moved(1.25 * turn, lift), person, pose)
    _mouth(brush.moved(1.25 * turn, lift), person, pose)
    _fringe(head, person)
    return cv2.resize(brush.canvas, (size, size), interpolation=cv2.INTER_AREA)


@dataclass(frozen=True)
class _Brush:
    """Draws in units on a canvas, at an offset."""

    canvas: np.ndarray
    scale: float
    offset: Point = (0.0, 0.0)

    def moved(self, x: float, y: float) -> "_Brush":
        return _Brush(self.canvas, self.scale, (x, y))

    def ellipse(self, centre: Point, radii: Point, color: Color, start: float = 0, end: float = 360) -> None:
        x, y = self._fixed([centre])[0].tolist()
        axes = (max(self._length(radii[0]), 1), max(self._length(radii[1]), 1))
        cv2.ellipse(self.canvas, (x, y), axes, 0, start, end, color, -1, cv2.LINE_AA, SHIFT_BITS)

    def polygon(self, points: list[Point], color: Color) -> None:
        cv2.fillPoly(self.canvas, [self._fixed(points)], color, cv2.LINE_AA, SHIFT_BITS)

    def stroke(self, points: list[Point], color: Color, width: float) -> None:
        thickness = max(round(width * self.scale), 1)
        cv2.polylines(self.canvas, [self._fixed(points)], False, color, thickness, cv2.LINE_AA, SHIFT_BITS)

    def ring(self, centre: Point, radius: float, color: Color) -> None:
        x, y = self._fixed([centre])[0].tolist()
        thickness = max(round(0.7 * self.scale), 1)
        cv2.circle(self.canvas, (x, y), self._length(radius), color, thickness, cv2.LINE_AA, SHIFT_BITS)

    def _length(self, units: float) -> int:
        return round(units * self.scale * 2**SHIFT_BITS)

    def _fixed(self, points: list[Point]) -> np.ndarray:
        moved = (np.asarray(points, np.float64) + self.offset) * self.scale
        return (moved * 2**SHIFT_BITS).round().astype(np.int32)


def _wall(brush: _Brush, person: Person) -> None:
    light = np.linspace(6, -6, brush.canvas.shape[0])[:, None, None]
    brush.canvas[:] = np.clip(np.asarray(person.wall) + light, 0, 255).astype(np.uint8)


def _hair_behind(brush: _Brush, person: Person) -> None:
    width, height = person.face
    if person.hair_style == "long":
        brush.ellipse((32, 32), (width + 5, height + 3), person.hair)
        brush.polygon([(32 - width - 5, 32), (32 + width + 5, 32), (32 + width + 4, 62), (28 - width, 62)], person.hair)
    elif person.hair_style == "bob":
        brush.ellipse((32, 31), (width + 5, height + 2), person.hair)
    elif person.hair_style == "curly":
        for angle in np.linspace(np.pi * 0.92, np.pi * 2.08, 9):
            brush.ellipse((32 + (width + 1) * np.cos(angle), 28 + (height - 2) * np.sin(angle)), (6, 6), person.hair)
    else:
        brush.ellipse((32, 28), (width + 2, height), person.hair)


def _body(brush: _Brush, person: Person, head: Point) -> None:
    brush.ellipse((32, 72), (27, 16), person.clothes)
    shade = _color(np.asarray(person.skin) * 0.86)
    brush.polygon([(25 + head[0] / 2, 46), (39 + head[0] / 2, 46), (40, 60), (24, 60)], shade)
    brush.polygon([(23, 58.5), (32, 64), (41, 58.5), (45, 64), (19, 64)], person.collar)


def _face(brush: _Brush, person: Person) -> None:
    width, height = person.face
    shade = _color(np.asarray(person.skin) * 0.9)
    for side in (-1, 1):
        brush.ellipse((32 + side * width, 34), (2.6, 4), shade)
    brush.ellipse((32, 33), (width, height), person.skin)
    blush = _color(0.85 * np.asarray(person.skin) + 0.15 * np.asarray((230, 90, 90)))
    for side in (-1, 1):
        brush.ellipse((32 + side * 10.5, 40), (3.2, 2.2), blush)
    brush.stroke([(31.4, 36), (30.8, 39.2), (32.8, 39.6)], _color(np.asarray(person.skin) * 0.75), 0.9)


def _eyes(brush: _Brush, person: Person, pose: Pose) -> None:
    size = person.eye_size
    dark = _color(np.asarray(person.hair) * 0.7)
    for side in (-1, 1):
        x, y = 32 + side * person.eye_gap, 30.5
        opening = size * 0.8 * (1 - pose.blink)
        if opening > 0.5:
            brush.ellipse((x, y), (size, opening), (250, 250, 248))
            brush.ellipse((x, y), (size * 0.55, min(size * 0.6, opening)), person.iris)
            brush.ellipse((x, y), (size * 0.28, min(size * 0.3, opening)), (20, 18, 22))
        brush.stroke(
            [(x - size, y), (x - size / 2, y - opening), (x + size / 2, y - opening), (x + size, y)], dark, 0.8
        )
        brow = y - size - 2.2 - 1.2 * pose.lift
        brush.stroke([(x - size, brow + 0.8), (x, brow), (x + size, brow + 0.8)], dark, person.brow)
        if person.glasses:
            brush.ring((x, y), size + 1.8, (40, 40, 45))
    if person.glasses:
        gap = person.eye_gap - size - 1.8
        brush.stroke([(32 - gap, 30), (32 + gap, 30)], (40, 40, 45), 0.7)


def _mouth(brush: _Brush, person: Person, pose: Pose) -> None:
    opening, x, y = 4.6 * pose.mouth, 32.0, 46.0
    width = person.mouth_width * (1 - 0.15 * pose.mouth)
    brush.ellipse((x, y + 0.35 * opening), (width, 1.5 + opening), person.lips)
    if opening > 0.15:
        inside = _color((1 - pose.tongue) * np.asarray((38, 10, 16)) + pose.tongue * np.asarray((170, 26, 40)))
        brush.ellipse((x, y + 0.35 * opening), (width - 1.3, opening), inside)
    else:
        seam = _color(np.asarray(person.lips) * 0.6)
        brush.stroke([(x - width, y - 0.3), (x, y + 0.3), (x + width, y - 0.3)], seam, 0.7)


def _fringe(brush: _Brush, person: Person) -> None:
    width, height = person.face
    top = 33 - height
    if person.hair_style in ("short", "bob"):
        brush.ellipse((32, 24), (width + 1.5, 24 - top + 2), person.hair, 180, 360)
        if person.hair_style == "bob":
            brush.polygon(
                [(32 - width - 1.5, 23), (32 + width + 1.5, 23), (32 + width, 26), (32 - width, 26)], person.hair
            )
    elif person.hair_style == "curly":
        for x in np.linspace(32 - width + 3, 32 + width - 3, 6):
            brush.ellipse((float(x), top + 5 + 0.012 * (x - 32) ** 2 * 4), (4.5, 4.5), person.hair)
    else:
        part = 26.0 if person.hair_style == "parted" else 32.0
        left: list[Point] = [
            (part, top - 2),
            (34 - width, top + 4),
            (31 - width, 30),
            (34 - width, 28),
            (part + 1, top + 7),
        ]
        right: list[Point] = [
            (part, top - 2),
            (30 + width, top + 4),
            (33 + width, 30),
            (30 + width, 28),
            (part - 1, top + 7),
        ]
        brush.polygon(left, person.hair)
        brush.polygon(right, person.hair)


def _color(values: np.ndarray) -> Color:
    red, green, blue = np.clip(np.asarray(values).round(), 0, 255).astype(int).tolist()
    return red, green, blue
