"""The judge's videos: made by the demo model, in two sets that share neither a person nor a voice."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.quality import CLIP, CPU, RATE, Demo
from demo.training.portraits import WALLS, Pose, draw, draw_person
from demo.training.text import HELD_OUT_COLOURED, HELD_OUT_PLAIN
from demo.training.train_vae import PEOPLE
from demo.training.voices import HELD_OUT_WORDS, sentence, speak
from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.fingerprint import Fingerprint
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.prepare import Inputs, prepare
from liveavatar_runtime.sampling.run import SamplingRequest
from liveavatar_runtime.vae.online_decoder import OnlineDecoder

CLIPS = 8
"""Of a video."""
RATES = (Fraction(25), Fraction(16))
MAKING_VOICES = ("en-us", "en-gb+m3", "de+m1", "es+m4", "en-us+m7", "en-us+f2")
HELD_OUT_VOICES = ("en-gb-scotland+f5", "fr+f3", "it+f1", "en-gb+f4", "en-gb+m1", "de+f2")
FIRST_PERSON = {"making": PEOPLE + 5_000, "held-out": PEOPLE + 7_000}
"""Seeds of people that the model was not trained on."""


@dataclass(frozen=True)
class Recipe:
    """One video. `other`: the person who stands in for the first one where that is the fault, and who says the same in
    another video of the set."""

    person: int
    other: int
    voice: str
    prompt: str
    seed: int
    fps: Fraction

    @property
    def name(self) -> str:
        return Fingerprint().add("recipe", repr(self)).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Video:
    """frames, and those of the other person: uint8 [T, 64, 64, 3]; voice [1, S] at 16 kHz; picture [512, 512, 3]."""

    recipe: Recipe
    frames: np.ndarray
    others: np.ndarray
    voice: np.ndarray

    @property
    def picture(self) -> Tensor:
        return picture_of(self.recipe)


def recipes(which: str, count: int, offset: int = 0) -> list[Recipe]:
    """Of a set; `offset`: another part of it, of other people."""
    voices = MAKING_VOICES if which == "making" else HELD_OUT_VOICES
    rng = np.random.default_rng([91, which == "making", offset])
    found = []
    for pair in range(count // 2):
        one = FIRST_PERSON[which] + 2 * (offset + pair)
        coloured = pair % 3 == 1
        prompt = str(rng.choice(HELD_OUT_COLOURED if coloured else HELD_OUT_PLAIN))
        prompt = prompt.format(str(rng.choice(list(WALLS)))) if coloured else prompt
        voice, fps, seed = voices[pair % len(voices)], RATES[pair // len(voices) % 2], int(rng.integers(2**31))
        found += [Recipe(*people, voice, prompt, seed, fps) for people in ((one, one + 1), (one + 1, one))]
    return found


@cache
def _demo(bundle: Path) -> tuple[Demo, CausalWanS2V]:
    demo = Demo.load(bundle)
    return demo, load_transformer(demo.bundle.model, dtype=torch.float32)


def voice_of(recipe: Recipe) -> Tensor:
    """[1, S], as long as the video: sentences with pauses of 0.1 to 0.8 seconds."""
    rng = np.random.default_rng([92, min(recipe.person, recipe.other)])
    length = int(CLIPS * CLIP / recipe.fps * RATE)
    speed, pitch = int(rng.integers(130, 175)), int(rng.integers(25, 75))
    parts: list[Tensor] = []
    while sum(part.shape[1] for part in parts) < length:
        pause = torch.zeros(1, int(rng.uniform(0.1, 0.8) * RATE))
        parts += [pause, speak(sentence(rng, HELD_OUT_WORDS), recipe.voice, speed, pitch)]
    return torch.cat(parts, dim=1)[:, :length].contiguous()


def _frames(bundle: Path, recipe: Recipe, voice: Tensor) -> np.ndarray:
    demo, model = _demo(bundle)
    plan = ClipPlan(num_clip=CLIPS, fps=recipe.fps, width=64, height=64, seed=recipe.seed, steps=4)
    audio = demo.heard(voice)
    place = demo.placed_vae
    ready = prepare(plan, model.config, Inputs(picture_of(recipe), demo.text.encode(recipe.prompt), audio), place)
    decoder = OnlineDecoder(place, ready.priming, "hold")
    blocks = LocalExecutor(model, CPU, torch.float32).run(SamplingRequest(ready.conditions, ready.plan))
    pixels = torch.cat([decoder.decode(block.latents) for block in blocks], dim=1).permute(1, 2, 3, 0)
    return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()


def picture_of(recipe: Recipe) -> Tensor:
    """[512, 512, 3] of 0..1."""
    return torch.from_numpy(draw(draw_person(recipe.person), Pose(), 512)).float() / 255


def _stored(recipe: Recipe, bundle: Path, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Frames and voice, from the folder where they were made before."""
    file = folder / f"{recipe.name}.npz"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        voice = voice_of(recipe)
        part = file.with_name(f"{recipe.name}.part.npz")
        np.savez(part, frames=_frames(bundle, recipe, voice), voice=voice.numpy())
        part.replace(file)
    with np.load(file) as stored:
        return stored["frames"], stored["voice"]


def videos(which: str, count: int, bundle: Path, folder: Path, offset: int = 0) -> Iterator[Video]:
    """Those of a set."""
    for recipe in recipes(which, count, offset):
        partner = replace(recipe, person=recipe.other, other=recipe.person)
        frames, voice = _stored(recipe, bundle, folder)
        others, _ = _stored(partner, bundle, folder)
        yield Video(recipe, frames, others, voice)
