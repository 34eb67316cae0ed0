"""Trains the VAE of the demo of 128x128, beginning with the one of 64x64: on parts of pictures mostly, as it convolves.

Clips end to end first, then the decoder alone, as `demo.training.train_vae`, whose losses these are.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from demo.architecture import VAE
from demo.training.clip_vae import STRIDE, decode_clips, decode_pictures, encode_clips, encode_pictures
from demo.training.optimizers import muon_for_convolutions
from demo.training.train_vae import (
    MOTION_WEIGHT,
    fold_statistics,
    noisy,
    reconstruction_loss,
    refine_decoder,
    to_pixels,
    train,
    unexplained_motion,
    unit_spread_loss,
)
from liveavatar_runtime import latent_space
from liveavatar_runtime.checkpoint.safetensors_io import read_weight_file
from liveavatar_runtime.vae import WanVAE, from_model_space, to_model_space

from ..canvas import UNITS
from ..mouth import BOX
from .videos import FRAMES, Videos

CROP = 64
CLIPS, CLIP_LATENTS = 12, 2
"""The last latent of each clip is decoded; those before it are the past of the decoder."""
WHOLE_CLIPS = 3
WHOLE_SHARE = 0.25
"""How often whole pictures are seen: attention in the middle must know their size."""
DECODED_CLIPS, DECODED_CLIP_LATENTS = 6, 5
PICTURE_SHARE = 0.25
EYES = (slice(38, 64), slice(40, 88))


def weight_map() -> Tensor:
    """[128, 128] weight of each pixel's error: what moves counts most."""
    weights = torch.ones(UNITS, UNITS)
    weights[EYES] = 2.0
    weights[BOX] = 3.0
    return weights


@dataclass(frozen=True)
class Clips:
    """Parts of drawn videos, with the weights of their pixels."""

    parts: list[Videos]
    weights: Tensor

    def draw(self, rng: np.random.Generator, count: int, latents: int) -> tuple[Tensor, Tensor]:
        """[count, 3, 4 * latents, H, W] in -1..1, all of one place of their pictures; its weights [H, W]."""
        rows, columns = self._place(rng)
        parts = []
        for number in rng.integers(0, sum(len(part.scenes) for part in self.parts), count):
            start = int(rng.integers(0, FRAMES - STRIDE * latents + 1))
            parts.append(self._frames(number)[start : start + STRIDE * latents, rows, columns])
        return to_pixels(np.stack(parts)), self.weights[rows, columns]

    def _frames(self, number: int) -> np.ndarray:
        for part in self.parts:
            if number < len(part.scenes):
                return part.frames[number]
            number -= len(part.scenes)
        raise IndexError(number)

    def _place(self, rng: np.random.Generator) -> tuple[slice, slice]:
        if rng.random() < WHOLE_SHARE:
            return slice(None), slice(None)
        # Mouth and eyes more often than corners.
        top, left = (8 * int(round(np.clip(rng.normal(0.5, 0.35), 0, 1) * (UNITS - CROP) / 8)) for _ in range(2))
        return slice(top, top + CROP), slice(left, left + CROP)


def unfold_statistics(vae: WanVAE) -> None:
    """The inverse of `fold_statistics`: latents of mean 0 and spread 1, as training keeps them."""
    mean, std = torch.tensor(latent_space.MEAN), torch.tensor(latent_space.STD)
    channels = vae.config.z_dim
    with torch.no_grad():
        vae.conv1.weight[:channels] /= std[:, None, None, None, None]
        vae.conv1.bias[:channels] = (vae.conv1.bias[:channels] - mean) / std
        vae.conv2.bias += (vae.conv2.weight[:, :, 0, 0, 0] * mean).sum(dim=1)
        vae.conv2.weight *= std[None, :, None, None, None]


def clip_step(vae: WanVAE, rng: np.random.Generator, clips: Clips) -> Tensor:
    as_pictures = rng.random() < PICTURE_SHARE
    pixels, weights = clips.draw(rng, CLIPS, CLIP_LATENTS)
    if pixels.shape[-1] == UNITS:
        pixels = pixels[:WHOLE_CLIPS]
    if as_pictures:
        pictures = pixels[:, :, ::STRIDE].transpose(1, 2).flatten(0, 1)
        z = encode_pictures(vae, pictures)
        return reconstruction_loss(decode_pictures(vae, noisy(z)), pictures, weights) + 0.02 * unit_spread_loss(z)
    with torch.no_grad():
        past = encode_clips(vae, pixels[:, :, :-STRIDE])
    now = pixels[:, :, -STRIDE:]
    z = encode_clips(vae, now)
    output = decode_clips(vae, noisy(torch.cat([past, z], dim=2)), 1)
    loss = reconstruction_loss(output, now, weights) + MOTION_WEIGHT * unexplained_motion(output, now, weights)
    return loss + 0.02 * unit_spread_loss(z)


def decoder_step(vae: WanVAE, rng: np.random.Generator, clips: Clips) -> Tensor:
    """Latents as they are given to the transformer, two of them decoded; the encoder stays as it is."""
    pixels, weights = clips.draw(rng, DECODED_CLIPS, DECODED_CLIP_LATENTS)
    if pixels.shape[-1] == UNITS:
        pixels = pixels[: WHOLE_CLIPS - 1]
    with torch.no_grad():
        z = from_model_space(noisy(to_model_space(encode_clips(vae, pixels))))
    output, now = decode_clips(vae, z, 2), pixels[:, :, -2 * STRIDE :]
    return reconstruction_loss(output, now, weights) + MOTION_WEIGHT * unexplained_motion(output, now, weights)


@dataclass(frozen=True)
class Steps:
    """Of Adam first, then of Muon."""

    first: int
    sharp: int


def train_whole(folder: Path, base: Path, steps: Steps, seed: int) -> None:
    """Writes vae.pt."""
    vae = WanVAE(VAE)
    vae.load_state_dict({name: value.float() for name, value in read_weight_file(base)[0].items()})
    unfold_statistics(vae)
    clips = Clips([Videos.load(one) for one in sorted(folder.glob("videos_*"))], weight_map())

    def loss_of(vae: WanVAE, rng: np.random.Generator) -> Tensor:
        return clip_step(vae, rng, clips)

    train(vae, loss_of, folder / "vae_clips.pt", steps.first, 2e-3, seed + 1)
    # Steps along orthogonal matrices sharpen what Adam leaves blurred.
    train(vae, loss_of, folder / "vae_sharp.pt", steps.sharp, 2.5e-3, seed + 3, optimizer_of=muon_for_convolutions)
    vae.requires_grad_(False)
    rng = np.random.default_rng([seed, 10**9])
    known = clips.parts[0]
    whole = np.stack([known.frames[number, :8] for number in rng.integers(0, len(known.scenes), 32)])
    fold_statistics(vae, to_pixels(whole))
    torch.save(vae.state_dict(), folder / "vae.pt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where videos and checkpoints are kept")
    parser.add_argument("--base", type=Path, required=True, help="weight file of the VAE of 64x64")
    parser.add_argument("--first-steps", type=int, default=1100)
    parser.add_argument("--sharp-steps", type=int, default=2200)
    parser.add_argument("--decoder-steps", type=int, default=0, help="go on with the decoder of vae.pt instead")
    parser.add_argument("--threads", type=int, default=1, help="more are worth it where nothing else runs")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    if arguments.decoder_steps:
        clips = Clips([Videos.load(one) for one in sorted(arguments.folder.glob("videos_*"))], weight_map())

        def loss_of(vae: WanVAE, rng: np.random.Generator) -> Tensor:
            return decoder_step(vae, rng, clips)

        steps, seed = arguments.decoder_steps, arguments.seed + 2
        refine_decoder(arguments.folder, loss_of, steps, 1.5e-3, seed, muon_for_convolutions)
    else:
        steps = Steps(arguments.first_steps, arguments.sharp_steps)
        train_whole(arguments.folder, arguments.base, steps, arguments.seed)


if __name__ == "__main__":
    main()
