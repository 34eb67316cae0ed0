"""The trained demo model: it opens the mouth to sound, closes it in silence, and paints the wall it is asked for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import measures
from benchmarks.quality import Demo, Scene, generate, prepared
from demo.training.portraits import Pose, draw, draw_person
from demo.training.train_vae import PEOPLE
from demo.training.voices import RATE

BUNDLE = Path(__file__).parents[2] / "demo" / "liveavatar-demo"
LARGEST_BUNDLES = 20 * 2**20


@pytest.fixture(scope="module")
def demo() -> Demo:
    torch.set_num_threads(1)
    return Demo.load(BUNDLE)


@pytest.fixture(scope="module")
def beep() -> Scene:
    """A held-out person who is silent for 24 frames at 25 a second, then hears half a second of sound."""
    voice = torch.zeros(1, 2 * RATE)
    voice[:, RATE : RATE + RATE // 2] = 0.5 * torch.sin(torch.arange(RATE // 2) * 0.2)
    return Scene(draw_person(PEOPLE + 5), voice, "A person is talking to the camera.", None)


def test_the_mouth_opens_with_the_sound(demo, beep):
    frames = generate(demo, prepared(demo, beep, clips=1))
    opening = measures.mouth_opening(frames, draw(beep.person, Pose()))
    assert len(frames) == 48
    assert opening[28:36].mean() > 3 * opening[4:20].mean()
    assert opening[28:36].mean() > 3 * opening[42:].mean()


def test_the_mouth_moves_inside_a_latent(demo, beep):
    """Four frames share a latent; where the sound begins and ends, each of them shows another mouth."""
    frames = generate(demo, prepared(demo, beep, clips=1))
    opening = measures.mouth_opening(frames, draw(beep.person, Pose())).reshape(-1, 4)
    steps = np.abs(np.diff(opening, axis=1))
    most = opening.std(axis=1).argmax()
    assert steps[most].min() > 0.5
    mouths = frames[(slice(4 * most, 4 * most + 4), *measures.MOUTH_INSIDE)].astype(int)
    assert (np.abs(mouths[1:] - mouths[:1]).mean(axis=(1, 2, 3)) > 1).all()


@pytest.mark.parametrize("word", ["red", "blue", "yellow"])
def test_the_prompt_paints_the_wall(demo, beep, word):
    asked = replace(beep, prompt=f"A teacher in front of a {word} wall explains a lesson.", word=word)
    ready = prepared(demo, asked, clips=1)
    frames = generate(demo, ready, shown=lambda block: block < 2)
    assert measures.wall_word(frames) == word


def test_all_weights_stay_small():
    files = BUNDLE.parent.rglob("*.safetensors")
    assert sum(file.stat().st_size for file in files) < LARGEST_BUNDLES
