"""How far a mouth is open and which vowel it shows: by the drawing of the same person that it is nearest to."""

from dataclasses import dataclass

import cv2
import numpy as np

from demo.people.drawing import draw
from demo.people.mouth import BOX
from demo.people.person import Person
from demo.people.pose import Pose

MOVES = 7
"""Pixels by which a mouth may lie elsewhere, as the head turns."""
MOUTH = (slice(BOX[0].start + 2, BOX[0].stop + 4), BOX[1])
"""Where a mouth is drawn, in pixels of 128."""


@dataclass(frozen=True)
class Mouths:
    """Drawings of a person's mouth to compare with."""

    poses: list[Pose]
    pictures: list[np.ndarray]

    @classmethod
    def of(cls, person: Person, poses: list[Pose]) -> "Mouths":
        return cls(poses, [draw(person, pose)[MOUTH] for pose in poses])

    def nearest(self, frame: np.ndarray) -> int:
        """The number of the drawing that a frame's mouth is nearest to, wherever the head has moved."""
        rows, columns = MOUTH
        window = frame[rows.start - MOVES : rows.stop + MOVES, columns.start - MOVES : columns.stop + MOVES]
        errors = [float(cv2.matchTemplate(window, one, cv2.TM_SQDIFF).min()) for one in self.pictures]
        return int(np.argmin(errors))


def openings(person: Person, frames: np.ndarray) -> np.ndarray:
    """[T]: how far the mouth is open, 0..1."""
    poses = [Pose(opening=o, spread=s) for o in np.linspace(0, 1, 9).tolist() for s in (-1.0, -0.4, 0.2, 0.8)]
    bank = Mouths.of(person, poses)
    return np.array([poses[bank.nearest(frame)].opening for frame in frames])
