"""Who somebody is: what stays the same in a video."""

from dataclasses import dataclass, replace

import numpy as np

from demo.training.portraits import WALLS

from .canvas import Color, Point, mixed

KINDS = ("human", "cat", "bear", "robot", "alien")
SHARES = (0.84, 0.05, 0.04, 0.04, 0.03)

SKINS: tuple[Color, ...] = (
    (252, 219, 196), (241, 198, 168), (226, 178, 140), (200, 148, 110), (168, 118, 84), (128, 86, 62),
)  # fmt: skip
HAIRS: tuple[Color, ...] = (
    (40, 30, 28), (78, 50, 38), (124, 78, 46), (198, 152, 86), (226, 190, 130), (156, 66, 40), (150, 150, 156),
)  # fmt: skip
FURS: dict[str, tuple[Color, ...]] = {
    "cat": ((232, 150, 74), (120, 120, 126), (70, 62, 62), (236, 222, 204)),
    "bear": ((130, 88, 58), (92, 64, 48), (232, 226, 216)),
    "robot": ((176, 186, 198), (120, 150, 186), (206, 176, 120)),
    "alien": ((126, 190, 110), (110, 170, 190), (164, 130, 196)),
}
IRISES: tuple[Color, ...] = ((88, 58, 36), (70, 120, 86), (66, 112, 172), (104, 104, 110), (120, 90, 40))
HAIR_STYLES = ("short", "side", "long", "bob", "curly", "bun", "bald")
COLLARS = ("round", "vee", "shirt", "roll")


@dataclass(frozen=True, kw_only=True)
class Person:
    """Lengths in units of `canvas`. face: half width and half height of the head."""

    kind: str
    skin: Color
    hair: Color
    hair_style: str
    wall: Color
    clothes: Color
    collar: str
    collar_color: Color
    iris: Color
    lips: Color
    face: Point
    jaw: float
    """How narrow the chin is, 0..1."""
    eye_gap: float
    eye_size: float
    mouth_width: float
    lip: float
    """Fullness of the lips."""
    nose: float
    brow: float
    glasses: bool
    beard: bool
    freckles: bool


def person_of(seed: int) -> Person:
    """The person of a seed."""
    rng = np.random.default_rng([128, seed])

    def varied(color: Color, spread: float) -> Color:
        red, green, blue = np.clip(np.asarray(color) + rng.uniform(-spread, spread, 3), 0, 255).tolist()
        return red, green, blue

    def one_of(colors: tuple[Color, ...], spread: float) -> Color:
        return varied(colors[rng.integers(len(colors))], spread)

    kind = str(rng.choice(KINDS, p=SHARES))
    skin = one_of(FURS.get(kind, SKINS), 9)
    hair = one_of(HAIRS, 12)
    style = str(rng.choice(HAIR_STYLES, p=(0.2, 0.17, 0.2, 0.15, 0.12, 0.11, 0.05)))
    male = style in ("short", "side", "bald") and rng.random() < 0.75
    human = kind == "human"
    return Person(
        kind=kind,
        skin=skin,
        hair=hair if human else mixed(skin, (20, 16, 20), 0.4),
        hair_style=style if human else "none",
        wall=varied((140, 140, 140), 85),
        clothes=varied((130, 130, 130), 105),
        collar=str(rng.choice(COLLARS)),
        collar_color=varied((160, 160, 160), 90),
        iris=one_of(IRISES, 12),
        lips=mixed(skin, (186, 58, 66), float(rng.uniform(0.3, 0.4) if male else rng.uniform(0.45, 0.65))),
        face=(float(rng.uniform(27.0, 31.5)), float(rng.uniform(35.0, 38.5))),
        jaw=float(rng.uniform(0.12, 0.34)),
        eye_gap=float(rng.uniform(12.0, 14.2)),
        eye_size=float(rng.uniform(5.6, 7.0)) * (1.3 if kind == "alien" else 1.0),
        mouth_width=float(rng.uniform(10.5, 13.0)),
        lip=float(rng.uniform(0.8, 1.25)),
        nose=float(rng.uniform(0.85, 1.2)),
        brow=float(rng.uniform(1.8, 3.0)) * (1.15 if male else 0.85),
        glasses=bool(rng.random() < 0.15) and human,
        beard=bool(male and rng.random() < 0.25) and human,
        freckles=bool(rng.random() < 0.12) and human,
    )


def in_front_of(person: Person, word: str | None) -> Person:
    """The person before the wall that a prompt's colour word asks for; None keeps the picture's own."""
    return person if word is None else replace(person, wall=WALLS[word])
