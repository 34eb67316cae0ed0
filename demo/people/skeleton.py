"""Draws where a person's head and shoulders are, as OpenPose does: what drives a video through the pose input."""

import colorsys

import numpy as np

from .canvas import UNITS, Canvas, Color, Point, circle
from .drawing import head_places, shoulders_place, standing
from .pose import Pose

HEAD: dict[str, tuple[Point, float]] = {
    "nose": ((64, 62), 1.25),
    "right eye": ((51, 52), 0.95),
    "left eye": ((77, 52), 0.95),
    "right ear": ((36, 57), 0.1),
    "left ear": ((92, 57), 0.1),
}
"""Points of a face from the front, and how near they lie, as `head_places` counts it."""
BODY: dict[str, Point] = {"neck": (64, 106), "right shoulder": (26, 113), "left shoulder": (102, 113)}
LIMBS = (
    ("neck", "right shoulder"),
    ("neck", "left shoulder"),
    ("neck", "nose"),
    ("nose", "right eye"),
    ("right eye", "right ear"),
    ("nose", "left eye"),
    ("left eye", "left ear"),
)
WIDTH, RADIUS = 3.2, 2.4


def draw_skeleton(pose: Pose, size: int = UNITS) -> np.ndarray:
    """uint8 RGB [size, size, 3], a colour for each limb on black."""
    whole = Canvas.of_size(size)
    places = _places(standing(whole), pose)
    for number, limb in enumerate(LIMBS):
        start, end = (places[name] for name in limb)
        along = (end - start) / (np.linalg.norm(end - start) + 1e-9)
        across = 0.5 * WIDTH * np.array([-along[1], along[0]])
        whole.fill(np.stack([start + across, end + across, end - across, start - across]), _color(number, 0.6))
    for number, place in enumerate(places.values()):
        whole.fill(circle((float(place[0]), float(place[1])), (RADIUS, RADIUS), 16), _color(number, 1.0))
    return whole.picture(size)


def _places(canvas: Canvas, pose: Pose) -> dict[str, np.ndarray]:
    """In units of the whole picture."""
    at, shoulders = head_places(canvas, pose), shoulders_place(canvas, pose)
    pixels = {name: at(depth).mapped(np.array([point]))[0] for name, (point, depth) in HEAD.items()}
    pixels |= {name: shoulders.mapped(np.array([point]))[0] for name, point in BODY.items()}
    return {name: place * UNITS / len(canvas.pixels) for name, place in pixels.items()}


def _color(number: int, value: float) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(number / 8, 1.0, value)
    return 255 * red, 255 * green, 255 * blue
