"""Trains the transformer of the demo of 128x128, beginning with the one of 64x64: its positions are relative.

Flow matching on sequences of blocks, later from its own half-denoised latents, as `demo.training.train_dit`. In two of
five sequences another prompt comes in mid-video.
"""

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from demo.architecture import TRANSFORMER
from demo.training.checkpoints import load_state, save_state
from demo.training.parallel_forward import LaterText, Sequences, velocities
from demo.training.text import TextEncoder
from demo.training.train_dit import (
    LATEST_BLOCK,
    SCHEDULES,
    STEP_SHARES,
    TINY_SIGMA_WEIGHT,
    Together,
    optimizers,
    rolled_out,
)
from liveavatar_runtime.checkpoint.safetensors_io import read_weight_file
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.sampling.noise_schedule import TRAIN_STEPS

from .examples import Examples, encode_videos
from .videos import BLOCKS

BATCH = 6
OWN_SHARE = 0.6
"""How often, in the second half, noisy latents are the sampler's own."""
LATER_SHARE = 0.4
"""How often the reference is a latent of the video itself, as after the first clip."""


@dataclass(frozen=True)
class Lessons:
    """What batches are drawn from."""

    examples: Examples
    encoder: TextEncoder

    @cached_property
    def texts(self) -> dict[str, Tensor]:
        return {prompt: self.encoder.encode(prompt) for prompt in {*self.examples.prompts, *self.examples.later}}

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, Sequences]:
        """Latents [B, 16, 3 * BLOCKS, h, w] and their conditions, from anywhere in a video."""
        examples = self.examples
        rows = rng.integers(0, len(examples.prompts), BATCH)
        latents, still = examples.latents[rows].float(), examples.still[rows].float()
        goes_on = torch.from_numpy(rng.random(BATCH) < LATER_SHARE)
        generated = latents[:, :, :1] + 0.1 * torch.randn_like(latents[:, :, :1])
        later = [
            LaterText(examples.changes[row], self.texts[examples.later[row]]) if examples.changes[row] else None
            for row in rows
        ]
        given = Sequences(
            text=[self.texts[examples.prompts[row]] for row in rows],
            reference=torch.where(goes_on[:, None, None, None, None], generated, still),
            motion=still.expand(-1, -1, TRANSFORMER.motion_frames[1], -1, -1),
            audio=examples.audio[rows].float(),
            first_blocks=[int(rng.integers(BLOCKS, LATEST_BLOCK)) if late else 0 for late in goes_on.tolist()],
            later=later,
        )
        return latents, given


def position_weights(height: int = 16, width: int = 16) -> Tensor:
    """[16, 16] weight of each latent: those of the mouth count most, then those of the eyes."""
    weights = torch.ones(height, width)
    weights[5:8, 5:11] = 1.5
    weights[8:13, 5:11] = 3.0
    return weights / weights.mean()


def loss_of(model: CausalWanS2V, lessons: Lessons, rng: np.random.Generator, own_share: float) -> Tensor:
    """Velocity error of one batch, whose noisy latents are the sampler's own in `own_share` of the cases."""
    latents, given = lessons.draw(rng)
    noise = torch.randn_like(latents)
    if rng.random() < own_share:
        schedule = SCHEDULES[int(rng.random() < 0.2)]
        step = int(rng.integers(1, schedule.steps - 1)) if rng.random() < 0.3 else schedule.steps - 2
        noisy = rolled_out(model, noise, given, schedule, step)
        sigmas = torch.full((BATCH,), schedule.sigmas[step])
    else:
        steps = rng.choice(4, BATCH, p=STEP_SHARES)
        sigmas = torch.tensor([SCHEDULES[0].sigmas[step] for step in steps])
        middle = torch.from_numpy(rng.random(BATCH) < 0.1)
        sigmas = torch.where(middle, SCHEDULES[1].sigmas[1], sigmas)
        noisy = latents + sigmas[:, None, None, None, None] * (noise - latents)
    velocity = velocities(model, noisy, (sigmas * TRAIN_STEPS).tolist(), given)
    target = (noisy - latents) / sigmas[:, None, None, None, None]
    error = ((velocity - target).square() * position_weights()).mean(dim=(1, 2, 3, 4))
    return (error * torch.where(sigmas < 0.1, TINY_SIGMA_WEIGHT, 1.0)).mean()


def train(model: CausalWanS2V, lessons: Lessons, file: Path, steps: int, rate: float) -> None:
    """Continues from `file` where it exists; the rate falls over the last third."""
    both = Together(optimizers(model))
    done = load_state(file, model, both)
    started, average = time.monotonic(), 0.0
    for step in range(done, steps):
        rng = np.random.default_rng([5, step])
        torch.manual_seed(5_000_003 + step)
        loss = loss_of(model, lessons, rng, OWN_SHARE if step > 0.5 * steps else 0.0)
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        both.step(rate * min(1.0, (step + 1) / 20, max((1 - step / steps) * 3, 0.02)))
        average = loss.item() if step == done else 0.95 * average + 0.05 * loss.item()
        if step % 20 == 0 or step == steps - 1:
            print(f"{file.stem} {step} loss {average:.4f} {time.monotonic() - started:.0f} s", flush=True)
        if (step + 1) % 50 == 0 or step == steps - 1:
            save_state(file, model, both, step + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="videos and checkpoints; holds vae.pt, audio.pt")
    parser.add_argument("--base", type=Path, required=True, help="bundle of 64x64: first weights, and text encoder")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rate", type=float, default=2e-3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folders = sorted(arguments.folder.glob("videos_*"))
    files = [arguments.folder / f"examples_{number}.pt" for number in range(len(folders))]
    with ProcessPoolExecutor(len(files), multiprocessing.get_context("spawn")) as workers:
        parts = [
            workers.submit(encode_videos, arguments.folder, videos, file)
            for videos, file in zip(folders, files, strict=True)
        ]
        for part in parts:
            part.result()
    model = CausalWanS2V(TRANSFORMER)
    weights = read_weight_file(arguments.base / "diffusion_pytorch_model.safetensors")[0]
    model.load_state_dict({name: value.float() for name, value in weights.items()})
    lessons = Lessons(Examples.load(files), TextEncoder(arguments.base / "umt5"))
    train(model, lessons, arguments.folder / "dit.pt", arguments.steps, arguments.rate)


if __name__ == "__main__":
    main()
