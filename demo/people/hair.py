"""Hair: what is behind the head, and what is before the forehead."""

from collections.abc import Callable

import numpy as np

from .canvas import Canvas, Light, circle, curve, lit, round_light
from .face import CENTRE, outline_of
from .person import Person


def draw_hair_behind(canvas: Canvas, person: Person) -> None:
    draw = _BEHIND.get(person.hair_style)
    if draw is not None:
        draw(canvas, person)


def draw_hair_in_front(canvas: Canvas, person: Person) -> None:
    draw = _IN_FRONT.get(person.hair_style)
    if draw is not None:
        draw(canvas, person)


def _shine(person: Person) -> Light:
    return round_light((58, 34), (person.face[0] + 14, 46), 0.24)


def _cap(person: Person, more: float) -> np.ndarray:
    """The skull's outline down to the ears."""
    outline = outline_of(person, wider=more)
    return outline[outline[:, 1] < CENTRE[1] + 6]


def _short_behind(canvas: Canvas, person: Person) -> None:
    outline = outline_of(person, wider=2.6) - (0, 2.0)
    outline[:, 1] = np.minimum(outline[:, 1], 64)
    canvas.fill(outline, lit(person.hair, 0.85), _shine(person))


def _long_behind(canvas: Canvas, person: Person) -> None:
    width = person.face[0]
    left = curve([(64, 15), (64 - 0.75 * width, 20), (64 - width - 6, 44), (64 - width - 8, 78), (64 - width - 3, 112)])
    right = (left * (-1, 1) + (128, 0))[::-1]
    canvas.fill(np.concatenate([left, right]), lit(person.hair, 0.82), _shine(person))


def _bob_behind(canvas: Canvas, person: Person) -> None:
    width = person.face[0]
    left = curve([(64, 15), (64 - 0.8 * width, 20), (64 - width - 6, 46), (64 - width - 6, 72), (64 - width + 3, 86)])
    right = (left * (-1, 1) + (128, 0))[::-1]
    canvas.fill(np.concatenate([left, right]), lit(person.hair, 0.84), _shine(person))


def _curly_behind(canvas: Canvas, person: Person) -> None:
    width, height = person.face
    for angle in np.linspace(np.pi * 0.88, np.pi * 2.12, 13):
        place = (64 + (width + 3.5) * np.cos(angle), 52 + (height - 2) * np.sin(angle))
        canvas.fill(circle(place, (9.5, 9.5)), lit(person.hair, 0.88), _shine(person))


def _bun_behind(canvas: Canvas, person: Person) -> None:
    canvas.fill(circle((64, 15), (11.5, 10)), person.hair, round_light((62, 12), (14, 13), 0.25))
    _short_behind(canvas, person)


_BEHIND: dict[str, Callable[[Canvas, Person], None]] = {
    "short": _short_behind,
    "side": _short_behind,
    "long": _long_behind,
    "bob": _bob_behind,
    "curly": _curly_behind,
    "bun": _bun_behind,
}


def _fringe(person: Person, edge: np.ndarray) -> np.ndarray:
    """The skull above, `edge` [N, 2] from the right temple to the left one below."""
    skull = _cap(person, 1.6)
    order = np.argsort(np.arctan2(skull[:, 0] - CENTRE[0], -(skull[:, 1] - CENTRE[1])))
    return np.concatenate([skull[order], edge])


def _short_front(canvas: Canvas, person: Person) -> None:
    width, top = person.face[0], CENTRE[1] - person.face[1]
    edge = curve([(64 + width + 1, 54), (64 + 0.86 * width, 42), (64 + 0.62 * width, top + 14), (64, top + 11),
                  (64 - 0.62 * width, top + 14), (64 - 0.86 * width, 42), (64 - width - 1, 54)])  # fmt: skip
    canvas.fill(_fringe(person, edge), person.hair, _shine(person))


def _side_front(canvas: Canvas, person: Person) -> None:
    width, top = person.face[0], CENTRE[1] - person.face[1]
    edge = curve([(64 + width + 1, 54), (64 + 0.85 * width, 40), (64 + 0.5 * width, top + 18),
                  (64 - 0.1 * width, top + 15), (64 - 0.42 * width, top + 8), (64 - 0.84 * width, 40),
                  (64 - width - 1, 54)])  # fmt: skip
    canvas.fill(_fringe(person, edge), person.hair, _shine(person))
    parting = curve([(64 - 0.42 * width, top + 8), (64 - 0.36 * width, top + 2), (64 - 0.26 * width, top - 1.5)])
    canvas.stroke(parting, lit(person.hair, 0.7), 1.2, 0.8)


def _long_front(canvas: Canvas, person: Person) -> None:
    width, top = person.face[0], CENTRE[1] - person.face[1]
    for side in (-1, 1):
        strand = curve([(64, top - 1), (64 + side * 0.3 * width, top + 9), (64 + side * 0.78 * width, 42),
                        (64 + side * 0.93 * width, 62), (64 + side * (width - 1), 84)])  # fmt: skip
        outer = curve([(64 + side * (width + 6), 86), (64 + side * (width + 5.5), 56), (64 + side * 0.86 * width, 26),
                       (64 + side * 0.4 * width, top - 2.5), (64, top - 3)])  # fmt: skip
        canvas.fill(np.concatenate([strand, outer]), person.hair, _shine(person))


def _bob_front(canvas: Canvas, person: Person) -> None:
    width, top = person.face[0], CENTRE[1] - person.face[1]
    edge = curve([(64 + width + 1, 58), (64 + 0.9 * width, 48), (64 + 0.78 * width, top + 17), (64, top + 19),
                  (64 - 0.78 * width, top + 17), (64 - 0.9 * width, 48), (64 - width - 1, 58)])  # fmt: skip
    canvas.fill(_fringe(person, edge), person.hair, _shine(person))
    for side in (-1, 1):
        lock = curve([(64 + side * (width + 1), 40), (64 + side * (width - 2.5), 62), (64 + side * (width - 3.5), 82)])
        outer = curve([(64 + side * (width + 1), 85), (64 + side * (width + 5.5), 70), (64 + side * (width + 5), 44)])
        canvas.fill(np.concatenate([lock, outer]), person.hair, _shine(person))


def _curly_front(canvas: Canvas, person: Person) -> None:
    width, top = person.face[0], CENTRE[1] - person.face[1]
    for x in np.linspace(-0.86 * width, 0.86 * width, 8):
        place = (64 + float(x), top + 7 + 13 * (float(x) / width) ** 2)
        canvas.fill(circle(place, (7.5, 7.2)), person.hair, _shine(person))


_IN_FRONT: dict[str, Callable[[Canvas, Person], None]] = {
    "short": _short_front,
    "side": _side_front,
    "long": _long_front,
    "bob": _bob_front,
    "curly": _curly_front,
    "bun": _short_front,
}
