"""What a prompt asks of a person, and sentences that ask for it."""

from dataclasses import dataclass

import numpy as np

from demo.training.portraits import WALLS

MOODS = ("happy", "sad", "angry", "surprised")
SIDES = {"left": -1.0, "right": 1.0}


@dataclass(frozen=True)
class Direction:
    """wall: a colour word of `WALLS`; mood: of `MOODS`; aside: of `SIDES`, as the viewer sees it; None, False: nothing
    is asked, the picture's own."""

    wall: str | None = None
    mood: str | None = None
    nods: bool = False
    aside: str | None = None


@dataclass(frozen=True)
class Wording:
    """Sentences, {} for the word that is asked for."""

    wall: tuple[str, ...]
    mood: dict[str, tuple[str, ...]]
    nods: tuple[str, ...]
    aside: tuple[str, ...]
    plain: tuple[str, ...]


TRAINED = Wording(
    wall=(
        "in front of a {} wall",
        "{} background",
        "{} wall behind the person",
        "before a plain {} wall",
        "the wall is {}",
        "standing at a {} wall",
    ),
    mood={
        "happy": ("smiling", "a happy person", "a friendly smile", "cheerful", "happy and smiling", "laughing"),
        "sad": ("sad", "a sad person", "unhappy", "a sad face", "sorrowful", "looks sad"),
        "angry": ("angry", "an angry person", "furious", "an angry face", "annoyed", "looks angry"),
        "surprised": ("surprised", "a surprised person", "astonished", "a surprised face", "amazed", "looks surprised"),
    },
    nods=("nodding", "nods the head", "nods while talking", "the head nods", "nodding a lot"),
    aside=("looking to the {}", "looks {}", "eyes to the {}", "facing {}", "turned to the {}"),
    plain=(
        "a person is talking to the camera",
        "a portrait of a person talking",
        "somebody explains something",
        "a woman speaks",
        "a man talks",
        "a talking avatar",
        "a cartoon portrait",
        "",
    ),
)
HELD_OUT = Wording(
    wall=("a {} wall in the background", "with a {} wall", "in a room with a {} wall"),
    mood={
        "happy": ("happy and friendly", "a smiling face"),
        "sad": ("sad and unhappy", "the person is sad"),
        "angry": ("angry and furious", "the person is angry"),
        "surprised": ("surprised and amazed", "the person is surprised"),
    },
    nods=("nodding the head", "the person nods"),
    aside=("looking {}", "the eyes look to the {}"),
    plain=("a teacher explains a lesson", "somebody talks"),
)


def random_direction(rng: np.random.Generator, asked: float = 0.5) -> Direction:
    """Each thing asked for with a probability that suits training; `asked` for the wall."""
    return Direction(
        wall=str(rng.choice(list(WALLS))) if rng.random() < asked else None,
        mood=str(rng.choice(MOODS)) if rng.random() < 0.4 else None,
        nods=bool(rng.random() < 0.2),
        aside=str(rng.choice(list(SIDES))) if rng.random() < 0.2 else None,
    )


def prompt_for(direction: Direction, rng: np.random.Generator, wording: Wording = TRAINED) -> str:
    """A sentence that asks for all of it, in any order."""
    parts = [str(rng.choice(wording.plain))]
    if direction.wall is not None:
        parts.append(str(rng.choice(wording.wall)).format(direction.wall))
    if direction.mood is not None:
        parts.append(str(rng.choice(wording.mood[direction.mood])))
    if direction.nods:
        parts.append(str(rng.choice(wording.nods)))
    if direction.aside is not None:
        parts.append(str(rng.choice(wording.aside)).format(direction.aside))
    order = rng.permutation(len(parts))
    text = ", ".join(parts[place] for place in order if parts[place])
    return text[:1].upper() + text[1:] + ("." if text and rng.random() < 0.7 else "")
