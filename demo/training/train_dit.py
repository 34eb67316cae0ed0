"""Trains the demo's transformer: flow matching on sequences of blocks, later from its own half-denoised latents."""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from demo.architecture import TRANSFORMER, VAE
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.dit.rope import axis_pairs
from liveavatar_runtime.sampling.noise_schedule import TRAIN_STEPS, NoiseSchedule, flow_matching_schedule
from liveavatar_runtime.vae import WanVAE

from .checkpoints import load_state, save_state
from .dataset import BLOCKS, Examples, build
from .optimizers import Together, muon_for
from .parallel_forward import Sequences, velocities
from .portraits import WALLS
from .text import TextEncoder, many_prompts

SCHEDULES = (flow_matching_schedule(4, 3.0), flow_matching_schedule(3, 3.0))
STEP_SHARES = (0.25, 0.25, 0.42, 0.08)
"""How often each step of four is trained; the third decides the picture."""
TINY_SIGMA_WEIGHT = 0.05
"""The last step moves the latents by 0.9 % only, and its velocity is mostly unknowable."""
LATEST_BLOCK = 3000
BATCH = 12
PROMPTS = 48


def begin(model: CausalWanS2V) -> None:
    """First weights under which gradients reach everything, and tokens look at their own place in other frames."""
    frame_pairs, row_pairs, _ = axis_pairs(model.config.head_dim)
    with torch.no_grad():
        model.casual_audio_encoder.weights.fill_(1.0)
        model.trainable_cond_mask.weight.mul_(0.5)
        nn.init.zeros_(model.head.head.weight)
        nn.init.zeros_(model.head.head.bias)
        layer: Any
        for layer in model.blocks:
            layer.modulation[:, [2, 5]] += 0.7
            for name in ("q", "k"):
                bias = getattr(layer.self_attn, name).bias.view(model.config.num_heads, -1, 2)
                for first in (frame_pairs, frame_pairs + row_pairs):
                    bias[:, first : first + 2, 0] = 5.0


def optimizers(model: CausalWanS2V) -> Together:
    """Muon for the matrices inside the layers, Adam for the rest."""
    return muon_for(model, lambda name, p: p.ndim == 2 and name.startswith(("blocks.", "audio_injector.")))


Prompts = dict[str, list[Tensor]]
"""Encoded prompts by the word they name, "" for none."""


def encoded_prompts(bundle: Path) -> Prompts:
    encoder = TextEncoder(bundle / "umt5")
    return {word or "": [encoder.encode(p) for p in many_prompts(word, PROMPTS)] for word in (*WALLS, None)}


def draw_batch(examples: Examples, prompts: Prompts, rng: np.random.Generator) -> tuple[Tensor, Sequences]:
    """Latents [B, 16, 3 * BLOCKS, h, w] and their conditions, from anywhere in a video.

    In two of five, the reference is the first latent of the video itself, as after the first clip.
    """
    rows = rng.integers(0, len(examples.words), BATCH)
    latents = examples.latents[rows]
    later = torch.from_numpy(rng.random(BATCH) < 0.4)
    generated = latents[:, :, :1] + 0.1 * torch.randn_like(latents[:, :, :1])
    reference = torch.where(later[:, None, None, None, None], generated, examples.still[rows])
    first_blocks = [int(rng.integers(BLOCKS, LATEST_BLOCK)) if late else 0 for late in later.tolist()]
    given = Sequences(
        text=[prompts[examples.words[row]][rng.integers(PROMPTS)] for row in rows],
        reference=reference,
        motion=examples.still[rows].expand(-1, -1, TRANSFORMER.motion_frames[1], -1, -1),
        audio=examples.audio[rows].float(),
        first_blocks=first_blocks,
    )
    return latents, given


def rolled_out(model: CausalWanS2V, noise: Tensor, given: Sequences, schedule: NoiseSchedule, step: int) -> Tensor:
    """What the sampler itself has before `step`; all blocks at once is the same as block by block."""
    latents = noise
    with torch.no_grad():
        for s in range(step):
            timesteps = [schedule.timesteps[s]] * len(latents)
            latents = schedule.advance(latents, velocities(model, latents, timesteps, given), s)
    return latents


def position_weights() -> Tensor:
    """[8, 8] weight of each latent: those of the mouth count most."""
    weights = torch.ones(8, 8)
    weights[5:7, 2:6] = 3.0
    return weights / weights.mean()


def velocity_error(
    model: CausalWanS2V,
    batch: tuple[Tensor, Sequences],
    weights: Tensor,
    rng: np.random.Generator,
    own_share: float,
) -> Tensor:
    """Of one batch, weighted by the place of each latent; its noisy latents are the sampler's own in `own_share` of the
    cases."""
    latents, given = batch
    count, noise = len(latents), torch.randn_like(latents)
    if rng.random() < own_share:
        schedule = SCHEDULES[int(rng.random() < 0.2)]
        # Not the last one: it moves the latents too little to mend anything.
        step = int(rng.integers(1, schedule.steps - 1)) if rng.random() < 0.3 else schedule.steps - 2
        noisy = rolled_out(model, noise, given, schedule, step)
        sigmas = torch.full((count,), schedule.sigmas[step])
    else:
        steps = rng.choice(4, count, p=STEP_SHARES)
        sigmas = torch.tensor([SCHEDULES[0].sigmas[step] for step in steps])
        middle = torch.from_numpy(rng.random(count) < 0.1)
        sigmas = torch.where(middle, SCHEDULES[1].sigmas[1], sigmas)
        noisy = latents + sigmas[:, None, None, None, None] * (noise - latents)
    velocity = velocities(model, noisy, (sigmas * TRAIN_STEPS).tolist(), given)
    target = (noisy - latents) / sigmas[:, None, None, None, None]
    error = ((velocity - target).square() * weights).mean(dim=(1, 2, 3, 4))
    return (error * torch.where(sigmas < 0.1, TINY_SIGMA_WEIGHT, 1.0)).mean()


@dataclass(frozen=True)
class Schedule:
    """Steps of training, their rate, and the seed of what is drawn."""

    steps: int
    rate: float
    seed: int = 0


def train(
    model: CausalWanS2V,
    draw: Callable[[np.random.Generator], tuple[Tensor, Sequences]],
    weights: Tensor,
    file: Path,
    schedule: Schedule,
) -> None:
    """Continues from `file` where it exists; the rate falls over the last third. draw: a batch, as of `draw_batch`."""
    steps, rate, seed = schedule.steps, schedule.rate, schedule.seed
    both = optimizers(model)
    done = load_state(file, model, both)
    started, average = time.monotonic(), 0.0
    for step in range(done, steps):
        rng = np.random.default_rng([seed, step])
        torch.manual_seed(seed * 1_000_003 + step)
        own_share = 0.6 if step > 0.5 * steps else 0.0
        loss = velocity_error(model, draw(rng), weights, rng, own_share)
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        both.step(rate * min(1.0, (step + 1) / 20, max((1 - step / steps) * 3, 0.02)))
        average = loss.item() if step == done else 0.95 * average + 0.05 * loss.item()
        if step % 20 == 0 or step == steps - 1:
            print(f"{file.stem} {step} loss {average:.4f} {time.monotonic() - started:.0f} s", flush=True)
        if (step + 1) % 50 == 0 or step == steps - 1:
            save_state(file, model, both, step + 1)


def build_part(file: Path, count: int, tracks: int, seed: int) -> None:
    """Examples of one seed, unless they are there already."""
    if file.exists():
        return
    torch.set_num_threads(1)
    vae = WanVAE(VAE)
    vae.load_state_dict(torch.load(file.parent / "vae.pt", weights_only=True))
    build(file.parent, vae, count, tracks, seed).save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints are kept; holds vae.pt, audio.pt")
    parser.add_argument("--bundle", type=Path, required=True, help="bundle whose text encoder is used")
    parser.add_argument("--examples", type=int, default=640)
    parser.add_argument("--tracks", type=int, default=64, help="voices, each used by several examples")
    parser.add_argument("--parts", type=int, default=2, help="processes that make examples")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files = [arguments.folder / f"examples_{part}.pt" for part in range(arguments.parts)]
    shares = arguments.examples // len(files), arguments.tracks // len(files)
    with ProcessPoolExecutor(len(files), multiprocessing.get_context("spawn")) as workers:
        parts = [workers.submit(build_part, file, *shares, seed) for seed, file in enumerate(files)]
        for part in parts:
            part.result()
    torch.manual_seed(arguments.seed)
    model = CausalWanS2V(TRANSFORMER)
    begin(model)
    examples, prompts = Examples.load(files), encoded_prompts(arguments.bundle)
    schedule = Schedule(arguments.steps, arguments.rate, arguments.seed)
    file = arguments.folder / "dit.pt"
    train(model, lambda rng: draw_batch(examples, prompts, rng), position_weights(), file, schedule)


if __name__ == "__main__":
    main()
