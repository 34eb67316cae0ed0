"""The mouth: lips that open, round, spread, press and smile; teeth and tongue inside."""

import numpy as np

from .canvas import Canvas, circle, curve, lit, mixed
from .person import Person
from .pose import Pose

HEIGHT = 78.5
"""Of the line between the lips, in units."""
JAW = 9.5
"""Units by which the lower lip falls at opening 1."""
BOX = (slice(68, 98), slice(46, 82))
"""Rows and columns, in units, that a mouth can cover in any pose but for the turn of the head."""


def draw_mouth(canvas: Canvas, person: Person, pose: Pose) -> None:
    inner, outer = outlines(person, pose)
    lips = mixed(person.lips, (120, 50, 50), 0.15 * pose.press)
    upper, lower = outer
    whole = np.concatenate([upper, lower[::-1]])
    canvas.fill(whole, lips, lambda x, y: np.clip(1.04 - 0.02 * (y - HEIGHT), 0.8, 1.12))
    shine = lower[6:-6] * 0.45 + inner[1][6:-6] * 0.55
    canvas.stroke(shine, lit(lips, 1.22), 1.3, 0.55)
    _inside(canvas, inner, pose)
    if pose.opening < 0.12:
        canvas.stroke(inner[0], lit(lips, 0.5), 1.3, 1 - pose.opening / 0.12)
    corner = lit(person.skin, 0.62)
    for place in (inner[0][0], inner[0][-1]):
        canvas.fill(circle((float(place[0]), float(place[1])), (1.0, 0.9), 12), corner, blur=0.6, strength=0.6)


def outlines(person: Person, pose: Pose) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Upper and lower edge, from the left corner to the right one, of what is between the lips, and of the lips."""
    wide = person.mouth_width * (1 + 0.16 * pose.spread if pose.spread > 0 else 1 + 0.42 * pose.spread)
    wide *= 1 - 0.07 * pose.opening + 0.09 * max(pose.smile, 0)
    corner = HEIGHT - 0.9 - 2.6 * pose.smile + 0.25 * JAW * pose.opening
    up, down = 1.4 * pose.opening, JAW * pose.opening
    bow = 1.0 + 0.9 * max(pose.smile, 0)
    full = person.lip * (1 - 0.55 * pose.press) * (1 + 0.3 * max(-pose.spread, 0))
    top, bottom = 2.7 * full, 3.7 * full

    def line(middle: float, quarter: float, dent: float = 0.0) -> np.ndarray:
        return curve([(64 - wide, corner), (64 - 0.62 * wide, quarter), (64 - 0.16 * wide, middle), (64, middle + dent),
                      (64 + 0.16 * wide, middle), (64 + 0.62 * wide, quarter), (64 + wide, corner)], 6)  # fmt: skip

    middle_up, middle_down = HEIGHT + 0.35 * bow - up, HEIGHT + 0.35 * bow + down
    round_up = 0.45 * (corner - HEIGHT) + HEIGHT
    inner = line(middle_up, round_up - 0.8 * up), line(middle_down, round_up + 0.82 * down)
    outer = (
        line(middle_up - top, round_up - 0.8 * up - 0.72 * top, 0.7),
        line(middle_down + bottom, round_up + 0.82 * down + 0.78 * bottom),
    )
    return inner, outer


def _inside(canvas: Canvas, inner: tuple[np.ndarray, np.ndarray], pose: Pose) -> None:
    """What is seen between the lips."""
    upper, lower = inner
    hole = np.concatenate([upper, lower[::-1]])
    opened = float(lower[:, 1].max() - upper[:, 1].min())
    if opened < 0.6:
        return
    canvas.fill(hole, (52, 14, 20))
    inside = canvas.within(hole)
    top, bottom = float(upper[len(upper) // 2, 1]), float(lower[len(lower) // 2, 1])
    wide = float(upper[-1, 0] - upper[0, 0]) / 2
    raised = pose.tongue * 0.75
    tongue = bottom + 2.2 - (0.2 + raised) * opened
    inside.fill(circle((64, tongue + 3.2), (0.72 * wide, 4.4 + 0.2 * opened)), (206, 92, 96), blur=0.7)
    # Upper teeth hang from the lip, lower ones come up to them where they are together.
    length = min(2.6, 0.34 * opened) + 0.25 * pose.teeth * opened
    inside.fill(_row(wide, top - 3, top + length), (246, 243, 236), blur=0.35)
    together = bottom - (0.3 + 0.45 * pose.teeth) * opened * pose.teeth
    inside.fill(_row(0.88 * wide, together, bottom + 4), (232, 228, 220), blur=0.35, strength=min(1.0, 2 * pose.teeth))


def _row(wide: float, high: float, low: float) -> np.ndarray:
    bend = 0.9
    return np.concatenate(
        [
            curve([(64 - 0.86 * wide, high), (64, high), (64 + 0.86 * wide, high)]),
            curve([(64 + 0.86 * wide, low - bend), (64, low), (64 - 0.86 * wide, low - bend)]),
        ]
    )
