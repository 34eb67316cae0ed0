"""Draws the demo's picture: a person of the kind the demo model knows, but none that it was trained on.

python -m demo.draw_portrait [file.png]
"""

import sys
from pathlib import Path

import cv2
import numpy as np

from demo.training.portraits import Pose, draw_person
from demo.training.portraits import draw as draw_frame

OUTPUT = Path(__file__).with_name("portrait.png")
SIZE = 512
PERSON = 10_000_300
"""Seed beyond those of the training set."""


def draw() -> np.ndarray:
    """uint8 RGB [512, 512, 3]; the same every time."""
    return draw_frame(draw_person(PERSON), Pose(), SIZE)


def main(output: Path) -> None:
    if not cv2.imwrite(str(output), cv2.cvtColor(draw(), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 9]):
        raise SystemExit(f"cannot write {output}: the folder must exist and be writable, the name end in .png")
    print(f"{output}: {SIZE}x{SIZE}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT)
