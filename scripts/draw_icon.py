"""`python scripts/draw_icon.py` draws the pack's icon, assets/icon.png: a portrait and the sound that makes it talk."""

from pathlib import Path

import cv2
import numpy as np

ICON = Path(__file__).parents[1] / "assets" / "icon.png"
SIDE = 400
"""The registry's limit."""
OVERSAMPLING = 4

# Blue, green, red.
BACKGROUND = (58, 32, 22)
PERSON = (236, 226, 214)
SOUND = (92, 168, 255)
# Heights of the sound's bars around the middle, in parts of the icon.
BARS = (0.06, 0.13, 0.24, 0.15, 0.32, 0.20, 0.10, 0.05)


def rounded_square(canvas: np.ndarray, radius: int) -> None:
    """The background, and its coverage in the alpha channel."""
    side = canvas.shape[0]
    for x, y in ((radius, radius), (side - radius, radius), (radius, side - radius), (side - radius, side - radius)):
        cv2.circle(canvas, (x, y), radius, (*BACKGROUND, 255), -1)
    cv2.rectangle(canvas, (radius, 0), (side - radius, side), (*BACKGROUND, 255), -1)
    cv2.rectangle(canvas, (0, radius), (side, side - radius), (*BACKGROUND, 255), -1)


def person(canvas: np.ndarray, unit: float) -> None:
    """Head and shoulders in the left part; the shoulders end where the icon ends."""
    color = (*PERSON, 255)
    cv2.ellipse(
        canvas, (int(0.38 * unit), int(0.36 * unit)), (int(0.15 * unit), int(0.18 * unit)), 0, 0, 360, color, -1
    )
    cv2.ellipse(
        canvas, (int(0.38 * unit), int(0.90 * unit)), (int(0.29 * unit), int(0.29 * unit)), 0, 180, 360, color, -1
    )


def sound(canvas: np.ndarray, unit: float) -> None:
    """Bars with round ends, from the mouth to the right edge."""
    first, step = 0.60, 0.045
    for index, height in enumerate(BARS):
        x = int((first + step * index) * unit)
        top, bottom = int((0.45 - height / 2) * unit), int((0.45 + height / 2) * unit)
        cv2.line(canvas, (x, top), (x, bottom), (*SOUND, 255), int(0.022 * unit), cv2.LINE_AA)


def draw() -> np.ndarray:
    """The icon, uint8 [400, 400, 4], blue, green, red and alpha."""
    side = SIDE * OVERSAMPLING
    canvas = np.zeros((side, side, 4), np.uint8)
    rounded_square(canvas, side // 6)
    person(canvas, side)
    sound(canvas, side)
    return cv2.resize(canvas, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


if __name__ == "__main__":
    ICON.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(ICON), draw())
