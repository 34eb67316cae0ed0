"""Draws the input files of the demo of 128x128: people that it was not trained on, and a pose video.

python -m demo.people.demo_files writes demo/portrait_128.png, cat_128.png, two_people_128.png and pose_128.mp4.
"""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from .drawing import draw
from .person import person_of
from .pose import Pose
from .skeleton import draw_skeleton

FOLDER = Path(__file__).parents[1]
SIZE = 512
PERSON, OTHER, CAT = 10_000_023, 10_000_014, 10_000_022
"""Seeds beyond those of the training set."""
FPS = Fraction(25)
POSE_SIZE, POSE_SECONDS = 256, 6.0


def portrait(seed: int) -> np.ndarray:
    """uint8 RGB [512, 512, 3]."""
    return draw(person_of(seed), Pose(), SIZE)


def two_people() -> np.ndarray:
    """Side by side before one wall, uint8 RGB [512, 1024, 3]."""
    person = person_of(PERSON)
    return np.hstack([draw(one, Pose(), SIZE) for one in (person, replace(person_of(OTHER), wall=person.wall))])


def moves(seconds: float) -> Pose:
    """A head that looks to one side, to the other, nods twice and leans."""
    phase = 2 * np.pi * seconds / POSE_SECONDS
    nods = np.sin(4 * phase) if 0.5 <= seconds / POSE_SECONDS < 0.75 else 0.0
    return Pose(turn=float(0.9 * np.sin(phase)), nod=float(0.9 * nods), tilt=float(0.5 * np.sin(2 * phase)))


def write_pose_video(file: Path) -> None:
    """H.264, so that Load Video of every ComfyUI reads it."""
    import av

    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width = stream.height = POSE_SIZE
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "16"}
        for number in range(int(POSE_SECONDS * FPS)):
            picture = draw_skeleton(moves(float(number / FPS)), POSE_SIZE)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def write_picture(file: Path, picture: np.ndarray) -> None:
    encoded, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert encoded
    file.write_bytes(data.tobytes())


def main() -> None:
    write_picture(FOLDER / "portrait_128.png", portrait(PERSON))
    write_picture(FOLDER / "cat_128.png", portrait(CAT))
    write_picture(FOLDER / "two_people_128.png", two_people())
    write_pose_video(FOLDER / "pose_128.mp4")


if __name__ == "__main__":
    main()
