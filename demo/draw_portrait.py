"""Draws `demo/portrait.png`: a friendly cartoon face, the same pixels every time.

python demo/draw_portrait.py [file.png]
"""

import sys
from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT = 512, 640
OVERSAMPLING = 4
OUTPUT = Path(__file__).parent / "portrait.png"

Color = tuple[int, int, int]
Points = list[tuple[float, float]]

# RGB
WALL_TOP, WALL_BOTTOM = (196, 222, 232), (236, 228, 214)
SKIN, SKIN_SHADE, BLUSH = (246, 205, 176), (228, 172, 142), (240, 158, 140)
HAIR, HAIR_LIGHT = (74, 47, 40), (112, 72, 56)
SHIRT, SHIRT_SHADE, COLLAR = (46, 110, 126), (34, 86, 102), (245, 240, 230)
EYE_WHITE, IRIS, PUPIL = (252, 250, 246), (70, 112, 96), (28, 26, 30)
LIP, LIP_DARK, WHITE = (206, 96, 96), (150, 62, 66), (255, 255, 255)


def draw() -> np.ndarray:
    """The portrait, uint8 RGB [640, 512, 3]."""
    canvas = _background()
    _hair_behind(canvas)
    _body(canvas)
    _head(canvas)
    _eyes(canvas)
    _nose_and_mouth(canvas)
    _fringe(canvas)
    return cv2.resize(canvas, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


def _background() -> np.ndarray:
    rows = np.linspace(0.0, 1.0, HEIGHT * OVERSAMPLING)[:, None, None]
    gradient = np.asarray(WALL_TOP) * (1 - rows) + np.asarray(WALL_BOTTOM) * rows
    canvas = np.ascontiguousarray(np.broadcast_to(gradient, (HEIGHT * OVERSAMPLING, WIDTH * OVERSAMPLING, 3)))
    canvas = canvas.round().astype(np.uint8)
    _soft(canvas, (256, 300), (250, 280), WHITE, 0.45, 90)
    return canvas


def _hair_behind(canvas: np.ndarray) -> None:
    outline: Points = [(256, 84), (160, 104), (112, 190), (106, 300), (118, 400), (140, 462), (190, 470), (256, 440)]
    _fill(canvas, _mirrored(outline), HAIR)


def _body(canvas: np.ndarray) -> None:
    _fill(
        canvas,
        [(40, 700), (60, 560), (120, 512), (200, 486), (256, 480), (312, 486), (392, 512), (452, 560), (472, 700)],
        SHIRT,
    )
    _fill(canvas, [(40, 700), (62, 566), (112, 522), (104, 600), (112, 700)], SHIRT_SHADE)
    _fill(canvas, [(472, 700), (450, 566), (400, 522), (408, 600), (400, 700)], SHIRT_SHADE)
    _fill(canvas, [(212, 410), (214, 480), (226, 512), (256, 528), (286, 512), (298, 480), (300, 410)], SKIN)
    _fill(canvas, [(213, 430), (256, 462), (299, 430), (298, 462), (256, 490), (214, 462)], SKIN_SHADE)
    _polygon(canvas, [(206, 478), (190, 500), (236, 566), (256, 530), (226, 508)], COLLAR)
    _polygon(canvas, [(306, 478), (322, 500), (276, 566), (256, 530), (286, 508)], COLLAR)


def _head(canvas: np.ndarray) -> None:
    for x in (134, 378):
        _ellipse(canvas, (x, 300), (20, 32), SKIN)
        _ellipse(canvas, (x, 302), (10, 18), SKIN_SHADE)
    jaw: Points = [(256, 130), (186, 146), (144, 214), (138, 300), (154, 368), (184, 418), (222, 444), (256, 450)]
    _fill(canvas, _mirrored(jaw), SKIN)
    _soft(canvas, (190, 350), (24, 18), BLUSH, 0.55, 9)
    _soft(canvas, (322, 350), (24, 18), BLUSH, 0.55, 9)
    _soft(canvas, (236, 180), (50, 26), WHITE, 0.18, 20)


def _eyes(canvas: np.ndarray) -> None:
    for x in (202, 310):
        _ellipse(canvas, (x, 290), (29, 24), EYE_WHITE)
        _ellipse(canvas, (x, 292), (17, 19), IRIS)
        _ellipse(canvas, (x, 292), (9, 11), PUPIL)
        _ellipse(canvas, (x - 6, 284), (5, 5), WHITE)
        _ellipse(canvas, (x + 6, 299), (2.5, 2.5), WHITE)
        lid: Points = [(x - 32, 292), (x - 20, 270), (x, 263), (x + 20, 270), (x + 32, 292)]
        _stroke(canvas, lid, HAIR, 5)
        brow: Points = [(x - 32, 244), (x - 12, 232), (x + 12, 231), (x + 32, 242)]
        _stroke(canvas, brow if x < WIDTH / 2 else [(2 * x - px, py) for px, py in brow], HAIR_LIGHT, 8)


def _nose_and_mouth(canvas: np.ndarray) -> None:
    _stroke(canvas, [(244, 340), (252, 349), (264, 348), (270, 340)], SKIN_SHADE, 5)
    mouth: Points = [(210, 380), (234, 384), (256, 386), (278, 384), (302, 380), (284, 404), (256, 412), (228, 404)]
    _fill(canvas, mouth, LIP_DARK)
    _fill(canvas, [(222, 384), (256, 389), (290, 384), (280, 393), (256, 396), (232, 393)], WHITE)
    _stroke(canvas, [(208, 379), (232, 383), (256, 385), (280, 383), (304, 379)], LIP, 5)
    _stroke(canvas, [(226, 404), (256, 413), (286, 404)], LIP, 6)


def _fringe(canvas: np.ndarray) -> None:
    left: Points = [
        (286, 92),
        (200, 92),
        (140, 136),
        (118, 230),
        (124, 290),
        (142, 270),
        (158, 220),
        (200, 196),
        (250, 160),
    ]
    right: Points = [
        (262, 92),
        (330, 100),
        (376, 146),
        (394, 230),
        (388, 290),
        (370, 270),
        (352, 222),
        (318, 196),
        (276, 150),
    ]
    _fill(canvas, right, HAIR)
    _fill(canvas, left, HAIR)
    _stroke(canvas, [(262, 112), (206, 128), (168, 170)], HAIR_LIGHT, 6)
    _stroke(canvas, [(300, 116), (344, 142), (366, 186)], HAIR_LIGHT, 6)


def _mirrored(half: Points) -> Points:
    """A closed outline from its left half, given from top to bottom."""
    return half + [(WIDTH - x, y) for x, y in reversed(half[1:-1])]


def _smooth(points: Points, closed: bool) -> np.ndarray:
    """Catmull-Rom curve through the points, in fixed-point pixels of the oversampled canvas."""
    knots = np.asarray(points, dtype=np.float64) * OVERSAMPLING
    padded = np.vstack([knots[-1:], knots, knots[:2]]) if closed else np.vstack([knots[:1], knots, knots[-1:]])
    t = np.linspace(0.0, 1.0, 24, endpoint=False)[:, None]
    pieces = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        pieces.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - 3 * c + d - a) * t**3))
    if not closed:
        pieces.append(knots[-1:])
    return np.vstack(pieces).round().astype(np.int32)


def _fill(canvas: np.ndarray, points: Points, color: Color) -> None:
    cv2.fillPoly(canvas, [_smooth(points, closed=True)], color)


def _polygon(canvas: np.ndarray, points: Points, color: Color) -> None:
    cv2.fillPoly(canvas, [(np.asarray(points) * OVERSAMPLING).astype(np.int32)], color)


def _stroke(canvas: np.ndarray, points: Points, color: Color, width: float) -> None:
    curve = _smooth(points, closed=False)
    cv2.polylines(canvas, [curve], False, color, round(width * OVERSAMPLING))
    for x, y in (curve[0], curve[-1]):
        cv2.circle(canvas, (int(x), int(y)), round(width * OVERSAMPLING / 2), color, -1)


def _ellipse(canvas: np.ndarray, centre: tuple[float, float], radii: tuple[float, float], color: Color) -> None:
    scaled = [(round(a * OVERSAMPLING), round(b * OVERSAMPLING)) for a, b in (centre, radii)]
    cv2.ellipse(canvas, scaled[0], scaled[1], 0, 0, 360, color, -1)


def _soft(
    canvas: np.ndarray, centre: tuple[int, int], radii: tuple[int, int], color: Color, opacity: float, blur: int
) -> None:
    """A blurred, half transparent ellipse."""
    mask = np.zeros((HEIGHT, WIDTH), np.float32)
    cv2.ellipse(mask, centre, radii, 0, 0, 360, opacity, -1)
    mask = cv2.GaussianBlur(mask, (0, 0), blur)
    mask = cv2.resize(mask, (canvas.shape[1], canvas.shape[0]), interpolation=cv2.INTER_LINEAR)[..., None]
    canvas[:] = (canvas * (1 - mask) + np.asarray(color, np.float32) * mask).round().astype(np.uint8)


def main(output: Path) -> None:
    if not cv2.imwrite(str(output), cv2.cvtColor(draw(), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 9]):
        raise SystemExit(f"cannot write {output}: the folder must exist and be writable, the name end in .png")
    print(f"{output}: {WIDTH}x{HEIGHT}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT)
