"""Videos of the demo models for people to look at: that of the example workflow, and of held-out people."""

import wave
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks import ROOT, quality
from benchmarks.people import scene as people
from benchmarks.quality import CLIP, FPS, Demo, generate
from demo.bundles import PEOPLE, SMALL, DemoBundle
from demo.people.direction import MOODS, Direction
from demo.people.drawing import draw as draw_person
from demo.people.pose import Pose as PersonsPose
from demo.training.portraits import WALLS, Pose, draw
from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.prepare import Inputs, prepare

PROMPT = "A friendly person talks to the camera in front of a blue wall."


@dataclass(frozen=True)
class Shown:
    """A picture uint8 [H, W, 3], a voice [1, S] at 16 kHz, a prompt, and their video, uint8 [T, side, side, 3]."""

    picture: np.ndarray
    voice: Tensor
    prompt: str
    frames: np.ndarray


def example(bundle: DemoBundle, clips: int) -> Shown:
    """Picture, voice and prompt of `workflows/short_clip.json`, at 25 frames a second."""
    with wave.open(str(ROOT / "demo" / "voice.wav")) as sound:
        samples = np.frombuffer(sound.readframes(sound.getnframes()), dtype=np.int16)
    voice = torch.from_numpy(samples.astype(np.float32) / 32768)[None]
    picture = np.array(Image.open(bundle.picture).convert("RGB"))
    demo = Demo.load(bundle.folder)
    plan = ClipPlan(num_clip=clips, fps=Fraction(FPS), width=bundle.side, height=bundle.side, seed=7)
    audio = demo.heard(voice)
    given = Inputs(torch.from_numpy(picture).float() / 255, demo.text.encode(PROMPT), audio)
    config = load_transformer(demo.bundle.model).config
    ready = prepare(plan, config, given, demo.placed_vae)
    return Shown(picture, voice, PROMPT, generate(demo, ready))


def _small(demo: Demo, number: int) -> Shown:
    what = quality.scene(300 + number, 2 * CLIP / float(FPS), coloured=float(number > 1))
    frames = generate(demo, quality.prepared(demo, what, clips=2))
    return Shown(draw(what.person, Pose()), what.voice, what.prompt, frames)


def _people(demo: Demo, number: int) -> Shown:
    walls, moods = list(WALLS), [None, *MOODS]
    direction = Direction(wall=walls[number % len(walls)], mood=moods[number % len(moods)])
    what = people.scene(950 + number, 2 * CLIP / float(FPS), direction)
    frames = generate(demo, people.prepared(demo, what, clips=2))
    return Shown(draw_person(what.person, PersonsPose()), what.track.sound, str(direction), frames)


HELD_OUT: dict[DemoBundle, Callable[[Demo, int], Shown]] = {SMALL: _small, PEOPLE: _people}
"""Two clips of a person of each model's kind, voices and prompts that it was not trained on."""
