"""The head without hair and mouth: skin, ears, nose, eyes, brows, glasses."""

import numpy as np

from .canvas import Canvas, Color, Point, circle, curve, lit, mixed, round_light
from .person import Person
from .pose import Pose

CENTRE: Point = (64.0, 56.0)
EYES = 52.0
DARK: Color = (26, 22, 26)


def outline_of(person: Person, opening: float = 0.0, wider: float = 0.0) -> np.ndarray:
    """The edge of the face, whose chin falls as the mouth opens; `wider` by so many units."""
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    width, height = person.face[0] + wider, person.face[1] + wider
    x, y = width * np.sin(angle), -height * np.cos(angle)
    below = np.clip(y / height, 0, 1)
    x *= 1 - person.jaw * below**2
    y += 3.2 * opening * below**2
    if person.kind == "robot":
        x, y = _squared(x / width) * width * 0.97, _squared(y / height) * height
    return np.stack([CENTRE[0] + x, CENTRE[1] + y], axis=1)


def _squared(u: np.ndarray) -> np.ndarray:
    return np.sign(u) * np.abs(u) ** 0.45


def draw_skin(canvas: Canvas, person: Person, pose: Pose) -> None:
    outline = outline_of(person, pose.opening)
    light = round_light(CENTRE, (person.face[0] + 4, person.face[1] + 6))
    canvas.fill(outline, person.skin, light)
    inside = canvas.within(outline)
    if person.kind in ("cat", "bear"):
        inside.fill(circle((64, 77), (19, 15)), mixed(person.skin, (255, 250, 240), 0.55), light, blur=1.5)
    if person.beard:
        _beard(inside, person, pose)
    blush = mixed(person.skin, (236, 92, 92), 0.5)
    for side in (-1, 1) if person.kind != "robot" else ():
        lift = -1.6 * max(pose.smile, 0)
        inside.fill(circle((64 + side * 17.5, 68 + lift), (6.5, 4.5)), blush, blur=2.4, strength=0.4)
    if person.freckles:
        for x, y in ((-19, 64), (-15, 67), (-12, 64), (12, 64), (15, 67), (19, 64)):
            inside.fill(circle((64 + x, y), (0.9, 0.9), 10), lit(person.skin, 0.7))
    inside.fill(circle((64, 88 + 2.4 * pose.opening), (8, 2.6)), lit(person.skin, 0.8), blur=1.6, strength=0.45)


def _beard(canvas: Canvas, person: Person, pose: Pose) -> None:
    fall = 3.0 * pose.opening
    outer = curve([(36, 62), (38, 78), (48, 92), (64, 100 + fall), (80, 92), (90, 78), (92, 62)])
    inner = curve([(86, 68), (78, 72), (64, 70), (50, 72), (42, 68)])
    canvas.fill(np.concatenate([outer, inner]), lit(person.hair, 0.95), blur=1.0, strength=0.85)


def draw_ears(canvas: Canvas, person: Person) -> None:
    if person.hair_style in ("long", "bob", "curly"):
        return
    draw = _EARS.get(person.kind, _human_ears)
    for side in (-1, 1):
        draw(canvas, person, side)


def _human_ears(canvas: Canvas, person: Person, side: int) -> None:
    x = 64 + side * (person.face[0] + 0.5)
    canvas.fill(circle((x, 57), (4.6, 7.2)), lit(person.skin, 0.92), round_light((62, 56), (36, 40), 0.12))
    canvas.fill(circle((x + side * 0.4, 57.5), (2.2, 4.4)), lit(person.skin, 0.72), blur=0.8, strength=0.8)


def _cat_ears(canvas: Canvas, person: Person, side: int) -> None:
    for size, color in ((1.0, person.skin), (0.6, mixed(person.skin, (240, 160, 160), 0.6))):
        middle = np.array((64 + side * 19, 24.0))
        ear = np.array([(-side * 11, 9.0), (side * 4, -17.0), (side * 10, 12.0)]) * size
        canvas.fill(middle + ear, color)


def _bear_ears(canvas: Canvas, person: Person, side: int) -> None:
    canvas.fill(circle((64 + side * 22, 26), (9.5, 9.5)), lit(person.skin, 0.95))
    canvas.fill(circle((64 + side * 22, 26.5), (5.2, 5.2)), lit(person.skin, 0.68), blur=0.8)


def _robot_ears(canvas: Canvas, person: Person, side: int) -> None:
    canvas.fill(circle((64 + side * (person.face[0] + 2), 56), (4.5, 8.0)), lit(person.skin, 0.7))
    if side == 1:
        canvas.stroke(curve([(64, 22), (64, 15), (64, 10)]), lit(person.skin, 0.6), 2.0)
        canvas.fill(circle((64, 8.5), (3.2, 3.2)), (230, 70, 60), round_light((63, 8), (4, 4), 0.3))


def _alien_ears(canvas: Canvas, person: Person, side: int) -> None:
    canvas.stroke(curve([(64 + side * 10, 26), (64 + side * 14, 14), (64 + side * 20, 9)]), lit(person.skin, 0.8), 2.4)
    canvas.fill(circle((64 + side * 20.5, 8.5), (3.4, 3.4)), lit(person.skin, 1.15))


_EARS = {"cat": _cat_ears, "bear": _bear_ears, "robot": _robot_ears, "alien": _alien_ears}


def draw_nose(canvas: Canvas, person: Person) -> None:
    size, shade = person.nose, lit(person.skin, 0.72)
    if person.kind in ("cat", "bear"):
        nose: list[Point] = [(60, 66), (64, 65), (68, 66), (65, 70.5), (63, 70.5)]
        canvas.fill(np.array(nose), mixed(DARK, (200, 110, 110), 0.5 if person.kind == "cat" else 0.1), blur=0.4)
        return
    if person.kind == "robot":
        canvas.fill(circle((64, 66), (2.2, 2.2)), lit(person.skin, 0.62))
        return
    bridge = curve([(66.2, 54), (66.8, 60), (68.5 * 1.0, 66.5)])
    canvas.stroke(bridge, shade, 1.8, 0.3)
    canvas.fill(circle((64, 66), (3.4 * size, 3.0)), lit(person.skin, 1.1), blur=1.4, strength=0.55)
    under = curve([(60.4 - size, 68), (62, 70), (64, 70.4), (66, 70), (67.6 + size, 68)])
    canvas.stroke(under, shade, 1.3, 0.85)
    for side in (-1, 1):
        canvas.fill(circle((64 + side * 2.1 * size, 69), (1.1, 0.7), 12), lit(person.skin, 0.5), blur=0.4, strength=0.8)


def draw_eyes(canvas: Canvas, person: Person, pose: Pose) -> None:
    for side in (-1, 1):
        _eye(canvas.moved(side * person.eye_gap, 0), person, pose, side)


def _eye(canvas: Canvas, person: Person, pose: Pose, side: int) -> None:
    size = person.eye_size
    high = 0.62 * size * (1 - pose.blink)
    low = 0.42 * size * (1 - 0.6 * pose.blink) * (1 - 0.35 * max(pose.smile, 0))
    left, right, middle = 64 - size, 64 + size, 64 - 0.12 * side * size
    shut = 0.30 * size * pose.blink
    upper = curve([(left, EYES + 0.8), (middle - 0.45 * size, EYES - 0.75 * high + shut),
                   (middle + 0.35 * size, EYES - high + shut), (right, EYES + 0.8)])  # fmt: skip
    lower = curve([(right, EYES + 0.8), (middle + 0.4 * size, EYES + low), (middle - 0.4 * size, EYES + low),
                   (left, EYES + 0.8)])  # fmt: skip
    shadow = lit(person.skin, 0.8)
    canvas.fill(circle((64, EYES - 1.5), (size * 1.15, size * 0.8)), shadow, blur=1.8, strength=0.4)
    if pose.blink < 0.85:
        opened = np.concatenate([upper, lower])
        canvas.fill(opened, (250, 249, 246), lambda x, y: np.clip(0.86 + 0.05 * (y - EYES + 3), 0.7, 1.0))
        _iris(canvas.within(opened), person, pose)
    canvas.stroke(upper, DARK, 1.9)
    canvas.stroke(lower[3:-3], lit(person.skin, 0.66), 0.9, 0.7)
    crease = upper[4:-4] - (0, 2.2)
    canvas.stroke(crease, lit(person.skin, 0.7), 0.9, 0.6)


def _iris(canvas: Canvas, person: Person, pose: Pose) -> None:
    size = person.eye_size
    centre = (64 + 0.42 * size * pose.look_x, EYES - 0.3 + 0.28 * size * pose.look_y)
    radius = 0.52 * size
    canvas.fill(circle(centre, (radius, radius)), lit(person.iris, 0.6))
    canvas.fill(circle(centre, (0.82 * radius, 0.82 * radius)), person.iris, lambda x, y: 1 + 0.05 * (y - centre[1]))
    pupil = (0.2, 0.48) if person.kind == "cat" else (0.46, 0.46)
    canvas.fill(circle(centre, (pupil[0] * radius, pupil[1] * radius)), (12, 11, 14))
    light = circle((centre[0] - 0.32 * radius, centre[1] - 0.36 * radius), (0.24 * radius, 0.24 * radius), 16)
    canvas.fill(light, (255, 255, 255), strength=0.95)


def draw_brows(canvas: Canvas, person: Person, pose: Pose) -> None:
    if person.kind in ("robot", "alien") and person.brow < 2.0:
        return
    y = EYES - 1.25 * person.eye_size - 2.0 - 2.8 * pose.brows
    # Sad or worried brows rise at the nose, angry ones fall there.
    inner = 1.6 * min(pose.smile, 0) - 1.8 * min(pose.brows, 0)
    for side in (-1, 1):
        x, size = 64 + side * person.eye_gap, person.eye_size
        line = curve([(x - side * 1.0 * size, y + 0.6 + inner), (x, y - 0.9), (x + side * 1.15 * size, y + 1.4)])
        canvas.stroke(line, lit(person.hair, 0.75), person.brow, 0.92)


def draw_glasses(canvas: Canvas, person: Person) -> None:
    frame: Color = (46, 42, 48)
    radii = (person.eye_size + 2.8, person.eye_size + 1.6)
    for side in (-1, 1):
        centre = (64 + side * person.eye_gap, EYES + 0.6)
        ring = circle(centre, radii)
        canvas.fill(ring, (235, 242, 250), strength=0.10)
        closed = np.concatenate([ring, ring[:1]])
        inner = np.concatenate([circle(centre, (radii[0] - 1.1, radii[1] - 1.1)), closed[:1] * 0 + ring[0] - (1.1, 0)])
        canvas.fill(np.concatenate([closed, inner[::-1]]), frame)
        arm = curve([(64 + side * (person.eye_gap + radii[0]), 52), (64 + side * (person.face[0] + 1), 52.5)])
        canvas.stroke(arm, frame, 1.5)
    gap = person.eye_gap - radii[0]
    canvas.stroke(curve([(64 - gap, 52), (64, 50.6), (64 + gap, 52)]), frame, 1.6)
