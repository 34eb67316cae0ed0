"""How somebody looks at one moment: what moves in a video."""

from dataclasses import astuple, dataclass, fields

import numpy as np


@dataclass(frozen=True)
class Mouth:
    """opening of the jaw 0..1; spread: lips round and forward -1..1 wide; teeth: how far they are together and seen,
    0..1; tongue: how far it is up behind the teeth, 0..1; press: lips that are pressed together, 0..1."""

    opening: float = 0.0
    spread: float = 0.0
    teeth: float = 0.0
    tongue: float = 0.0
    press: float = 0.0


@dataclass(frozen=True)
class Pose:
    """All zeros is the reference picture. The first five are a `Mouth`.

    blink 0..1; look_x, look_y: eyes to the right, down, -1..1; turn, nod, tilt of the head, -1..1: to the right, down,
    clockwise; brows -1..1: down, up; smile -1..1: corners of the mouth down, up; sway -1..1 of the shoulders; breath
    0..1.
    """

    opening: float = 0.0
    spread: float = 0.0
    teeth: float = 0.0
    tongue: float = 0.0
    press: float = 0.0
    blink: float = 0.0
    look_x: float = 0.0
    look_y: float = 0.0
    turn: float = 0.0
    nod: float = 0.0
    tilt: float = 0.0
    brows: float = 0.0
    smile: float = 0.0
    sway: float = 0.0
    breath: float = 0.0

    def row(self) -> np.ndarray:
        return np.array(astuple(self))

    @classmethod
    def of_row(cls, row: np.ndarray) -> "Pose":
        """Of a row [15] as `row` gives it."""
        return cls(*row.tolist())


MOTIONS = tuple(one.name for one in fields(Pose))
"""Names of a row's values."""
