"""Draws a person in a pose: `draw(person, pose)`."""

from collections.abc import Callable

import numpy as np

from .canvas import UNITS, Canvas, Point, circle, curve, lit, mirrored, mixed, round_light
from .face import draw_brows, draw_ears, draw_eyes, draw_glasses, draw_nose, draw_skin
from .hair import draw_hair_behind, draw_hair_in_front
from .mouth import draw_mouth
from .person import Person
from .pose import Pose

PIVOT: Point = (64.0, 98.0)
"""About which a head tilts."""
CLOSER, MIDDLE = 1.12, (64.0, 62.0)
"""How much nearer everybody stands than their lengths say, and about which point."""
TURNED, NODDED, TILTED = 5.0, 4.0, 5.0
"""Units and degrees that a whole head moves at 1."""


def draw(person: Person, pose: Pose, size: int = UNITS) -> np.ndarray:
    """One frame, uint8 RGB [size, size, 3]."""
    whole = Canvas.of_size(size)
    _wall(whole, person)
    canvas = standing(whole)
    at = head_places(canvas, pose)
    draw_hair_behind(at(0.15), person)
    _body(shoulders_place(canvas, pose), person, pose)
    draw_ears(at(0.1), person)
    draw_skin(at(0.4), person, pose)
    draw_nose(at(1.25), person)
    draw_eyes(at(0.95), person, pose)
    draw_mouth(at(1.0), person, pose)
    draw_hair_in_front(at(0.6), person)
    draw_brows(at(0.95), person, pose)
    if person.glasses:
        draw_glasses(at(1.05), person)
    return whole.picture(size)


def standing(whole: Canvas) -> Canvas:
    """Where a person is drawn on a whole picture."""
    return whole.enlarged(CLOSER, MIDDLE)


def head_places(canvas: Canvas, pose: Pose) -> Callable[[float], Canvas]:
    """Where parts of a head are drawn, by their depth: what lies nearer moves further when a head turns."""
    head = canvas.moved(2.2 * pose.sway, -1.0 * pose.breath).turned(TILTED * pose.tilt, PIVOT)
    return lambda depth: head.moved(TURNED * depth * pose.turn, NODDED * depth * pose.nod)


def shoulders_place(canvas: Canvas, pose: Pose) -> Canvas:
    return canvas.moved(1.6 * pose.sway, -1.2 * pose.breath)


def _wall(canvas: Canvas, person: Person) -> None:
    """A colour that is brighter above on the left, as under a lamp."""
    corners: list[Point] = [(-8, -8), (136, -8), (136, 136), (-8, 136)]
    canvas.fill(np.array(corners), person.wall, lambda x, y: 1.07 - 0.0006 * x - 0.0009 * y)


def _body(canvas: Canvas, person: Person, pose: Pose) -> None:
    """Neck and shoulders; the neck's upper end goes with the head."""
    follow = (0.5 * (TURNED * 0.4 * pose.turn), 0.3 * NODDED * pose.nod)
    shade = lit(person.skin, 0.84)
    neck = mirrored([(53.5, 82), (54.5, 96), (51, 106), (44, 114)])
    neck_outline = np.array(neck) + np.outer(np.clip((100 - np.array(neck)[:, 1]) / 18, 0, 1), follow)
    left = curve([(64, 104), (52, 104.5), (40, 107.5), (26, 112), (14, 120), (8, 134)])
    shoulders = np.concatenate([left, (left * (-1, 1) + (128, 0))[::-1]])
    if person.collar != "roll":
        canvas.fill(neck_outline, shade, round_light((62, 98), (16, 26), 0.12))
        canvas.within(neck_outline).fill(circle((64 + follow[0], 90), (17, 9)), lit(person.skin, 0.62), blur=2.5)
    canvas.fill(shoulders, person.clothes, round_light((58, 118), (62, 34), 0.13))
    canvas.stroke(curve([(30, 113), (34, 122), (33, 134)]), lit(person.clothes, 0.8), 1.2, 0.6)
    canvas.stroke(curve([(98, 113), (94, 122), (95, 134)]), lit(person.clothes, 0.8), 1.2, 0.6)
    _COLLARS[person.collar](canvas, person, neck_outline)


def _round(canvas: Canvas, person: Person, neck: np.ndarray) -> None:
    opening = np.concatenate([curve([(49, 103), (54, 111), (64, 114.5), (74, 111), (79, 103)]), [[64, 96]]])
    canvas.fill(opening, lit(person.skin, 0.84), round_light((62, 100), (22, 24), 0.12))
    edge = curve([(47.5, 103), (53, 112), (64, 116), (75, 112), (80.5, 103)])
    canvas.stroke(edge, mixed(person.clothes, person.collar_color, 0.6), 2.6)


def _vee(canvas: Canvas, person: Person, neck: np.ndarray) -> None:
    canvas.fill(np.array([(50, 103), (64, 127), (78, 103), (64, 94)]), lit(person.skin, 0.84))
    for side in (-1, 1):
        canvas.stroke(curve([(64 + side * 15.5, 103), (64 + side * 8, 116), (64, 129)]), person.collar_color, 2.6)


def _shirt(canvas: Canvas, person: Person, neck: np.ndarray) -> None:
    canvas.fill(np.array([(52, 102), (64, 114), (76, 102), (64, 94)]), lit(person.skin, 0.84))
    for side in (-1, 1):
        flap: list[Point] = [(64 + side * 15, 100), (64 + side * 1, 112), (64 + side * 9, 121), (64 + side * 20, 107)]
        canvas.fill(np.array(flap), person.collar_color, round_light((62, 108), (26, 22), 0.12))
    canvas.stroke(curve([(64, 113), (64, 122), (64, 134)]), lit(person.clothes, 0.75), 1.0)


def _roll(canvas: Canvas, person: Person, neck: np.ndarray) -> None:
    outline = np.array(mirrored([(51, 93), (50, 99), (46, 107), (44, 112)]))
    canvas.fill(outline, lit(person.clothes, 0.92), round_light((61, 98), (20, 26), 0.16))
    canvas.stroke(curve([(50.5, 95), (64, 99), (77.5, 95)]), lit(person.clothes, 0.72), 1.4)


_COLLARS = {"round": _round, "vee": _vee, "shirt": _shirt, "roll": _roll}
