"""Whether people do what a prompt asks, in wordings that are none of the training's, also from mid-video on."""

from dataclasses import replace

import numpy as np

from benchmarks.quality import BLOCK, Demo, generate, row
from demo.people.direction import MOODS, SIDES, Direction
from demo.training.portraits import WALLS
from liveavatar_runtime.sampling.plan import SINK_POLICIES

from .scene import Scene, prepared, scene

SEEN = 3
"""One of so many frames is compared."""


def asked_for(kind: str, rng: np.random.Generator) -> tuple[Direction, list[Direction]]:
    """Something of a kind, and all that it could be taken for."""
    if kind == "wall":
        options = [Direction(wall=word) for word in WALLS]
    elif kind == "mood":
        options = [Direction(mood=mood) for mood in MOODS]
    elif kind == "aside":
        options = [Direction(aside=side) for side in SIDES]
    else:
        options = [Direction(nods=True)]
    return options[int(rng.integers(len(options)))], [*options, Direction()]


def shows(what: Scene, frames: np.ndarray, options: list[Direction], first: int = 0) -> Direction:
    """The direction whose perfect video these frames are nearest to."""
    seen = frames[::SEEN].astype(float)
    errors = [float(np.abs(seen - what.drawn(len(frames), one, first, SEEN)).mean()) for one in options]
    return options[int(np.argmin(errors))]


def prompts(demo: Demo, each: int) -> list[str]:
    """Held-out wordings: whether the video shows what was asked for."""
    lines, all_right = [], []
    for kind in ("wall", "mood", "aside", "nods"):
        right = []
        for number in range(each):
            rng = np.random.default_rng([80, number])
            direction, options = asked_for(kind, rng)
            what = scene(400 + number, 3.0, direction)
            frames = generate(demo, prepared(demo, what, clips=1, seed=number))[12:]
            right.append(shows(what, frames, options, 12) == direction)
        all_right += right
        lines.append(
            row(f"prompts: {kind} ({each})", f"{100 * np.mean(right):.0f} %", ">= 95 %", bool(np.mean(right) >= 0.95))
        )
    return lines


def wall_word(frames: np.ndarray) -> str:
    """The colour word that the upper corners are nearest to."""
    colour = np.median(frames[:, 2:24, [*range(6), *range(122, 128)]], axis=(0, 1, 2))
    return min(WALLS, key=lambda word: float(np.square(colour - WALLS[word]).sum()))


def follows(demo: Demo, each: int) -> list[str]:
    """Another wall in mid-video: whether it is there two blocks later, by sink policy."""
    lines = []
    for policy in SINK_POLICIES:
        right = []
        for number in range(each):
            rng = np.random.default_rng([81, number])
            first, second = (Direction(wall=str(word)) for word in rng.choice(list(WALLS), 2, replace=False))
            what = replace(scene(500 + number, 6.0, first), later=second, change=6 * BLOCK)
            frames = generate(demo, prepared(demo, what, 3, number, policy), shown=lambda block: block < 10)
            after = frames[8 * BLOCK : 10 * BLOCK]
            right.append(wall_word(after) == second.wall)
        lines.append(
            row(
                f"another wall within two blocks, {policy}",
                f"{100 * np.mean(right):.0f} %",
                ">= 95 %",
                bool(np.mean(right) >= 0.95),
            )
        )
    return lines
