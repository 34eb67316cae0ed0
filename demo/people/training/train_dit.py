"""Trains the transformer of the demo of 128x128, beginning with the one of 64x64: its positions are relative.

Flow matching on sequences of blocks, later from its own half-denoised latents, as `demo.training.train_dit`. In two of
five sequences another prompt comes in mid-video.
"""

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from demo.architecture import TRANSFORMER
from demo.training.parallel_forward import LaterText, Sequences
from demo.training.text import TextEncoder
from demo.training.train_dit import LATEST_BLOCK, Schedule, train
from liveavatar_runtime.checkpoint.safetensors_io import read_weight_file
from liveavatar_runtime.dit.model import CausalWanS2V

from .examples import Examples, encode_videos
from .videos import BLOCKS

BATCH = 6
ENCODERS = 2
"""Processes that encode videos."""
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
            pose=examples.pose[rows].float(),
        )
        return latents, given


def position_weights(height: int = 16, width: int = 16) -> Tensor:
    """[16, 16] weight of each latent: those of the mouth count most, then those of the eyes."""
    weights = torch.ones(height, width)
    weights[5:8, 5:11] = 1.5
    weights[8:13, 5:11] = 3.0
    return weights / weights.mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="videos and checkpoints; holds vae.pt, audio.pt")
    parser.add_argument("--base", type=Path, required=True, help="bundle of 64x64: first weights, and text encoder")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1, help="more are worth it where nothing else runs")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folders = [folder for kind in ("videos", "driven") for folder in sorted(arguments.folder.glob(f"{kind}_*"))]
    files = [arguments.folder / f"examples_{folder.name}.pt" for folder in folders]
    with ProcessPoolExecutor(ENCODERS, multiprocessing.get_context("spawn")) as workers:
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
    schedule = Schedule(arguments.steps, arguments.rate, seed=5)
    train(model, lessons.draw, position_weights(), arguments.folder / "dit.pt", schedule)


if __name__ == "__main__":
    main()
