"""Draws the demo's pictures: people of the kind the demo model knows, but none that it was trained on.

python -m demo.draw_portrait [file.png]
python -m demo.draw_portrait --two [file.png]
"""

import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from demo.training.portraits import Pose, draw_person
from demo.training.portraits import draw as draw_frame

OUTPUT = Path(__file__).with_name("portrait.png")
SIZE = 512
PERSON, OTHER = 10_000_300, 10_000_301
"""Seeds beyond those of the training set."""
TWO = Path(__file__).with_name("two_people.png")


def draw() -> np.ndarray:
    """uint8 RGB [512, 512, 3]; the same every time."""
    return draw_frame(draw_person(PERSON), Pose(), SIZE)


def draw_two() -> np.ndarray:
    """Two people side by side before one wall, uint8 RGB [512, 1024, 3]."""
    person = draw_person(PERSON)
    other = replace(draw_person(OTHER), wall=person.wall)
    return np.hstack([draw_frame(one, Pose(), SIZE) for one in (person, other)])


def main(output: Path, picture: np.ndarray) -> None:
    if not cv2.imwrite(str(output), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 9]):
        raise SystemExit(f"cannot write {output}: the folder must exist and be writable, the name end in .png")
    print(f"{output}: {picture.shape[1]}x{picture.shape[0]}")


if __name__ == "__main__":
    given = sys.argv[1:]
    if given[:1] == ["--two"]:
        main(Path(given[1]) if len(given) > 1 else TWO, draw_two())
    else:
        main(Path(given[0]) if given else OUTPUT, draw())
