"""Held-out people, voices and wordings, and their perfect videos."""

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import torch

from benchmarks.quality import BLOCK, Demo
from demo.people.direction import HELD_OUT, Direction, prompt_for
from demo.people.drawing import draw
from demo.people.motion import heard
from demo.people.person import Person, person_of
from demo.people.pose import Pose
from demo.people.speech import Track
from demo.people.training.videos import PEOPLE, at_frames, frames_of, held_out_track
from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.sampling.plan import ClipPlan, SinkPolicy
from liveavatar_runtime.sampling.prepare import Inputs, Prepared, prepare
from liveavatar_runtime.sampling.script import Change, Script

FPS, SIDE = Fraction(25), 128
NOTHING = Direction()


@dataclass(frozen=True)
class Scene:
    """A held-out person, voice and what is asked of the person; another thing from frame `change` on."""

    person: Person
    track: Track
    direction: Direction = NOTHING
    later: Direction | None = None
    change: int = 0
    rows: np.ndarray = field(init=False, repr=False)
    """Of what is heard, at 50 a second."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", heard(self.track))

    def drawn(self, frames: int, direction: Direction | None = None, first: int = 0, every: int = 1) -> np.ndarray:
        """The perfect video of it, of another direction; one of `every` so many frames."""
        rows = at_frames(self.rows, self.track.sound, first, frames, FPS)[::every]
        return frames_of(self.person, rows, [direction or self.direction] * len(rows))


def scene(number: int, seconds: float, direction: Direction = NOTHING) -> Scene:
    return Scene(person_of(PEOPLE + 1 + number), held_out_track(number, seconds), direction)


def prepared(demo: Demo, what: Scene, clips: int, seed: int = 7, policy: SinkPolicy = "adaptive") -> Prepared:
    rng = np.random.default_rng([79, seed])
    texts, script = {}, Script()
    if what.later is not None:
        block = what.change // BLOCK
        script = Script((Change(block=block, text=True),))
        texts = {block: demo.text.encode(prompt_for(what.later, rng, HELD_OUT))}
    plan = ClipPlan(
        num_clip=clips, fps=FPS, width=SIDE, height=SIDE, seed=seed, sink_policy=policy, reanchor_clips=2, script=script
    )
    given = Inputs(
        picture=torch.from_numpy(draw(what.person, Pose(), 512)).float() / 255,
        text=demo.text.encode(prompt_for(what.direction, rng, HELD_OUT)),
        audio=demo.heard(what.track.sound),
        texts=texts,
    )
    return prepare(plan, load_transformer(demo.bundle.model).config, given, demo.placed_vae)
