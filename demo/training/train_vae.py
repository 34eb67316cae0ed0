"""Trains the demo's VAE: first on single pictures, then on short clips, at last the decoder alone."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from demo.architecture import VAE
from liveavatar_runtime import latent_space
from liveavatar_runtime.duration import FEATURE_RATE
from liveavatar_runtime.vae import WanVAE, from_model_space, to_model_space

from .checkpoints import load_state, save_state
from .clip_vae import (
    STRIDE,
    begin_as_clips,
    begin_as_pictures,
    decode_clips,
    decode_pictures,
    encode_clips,
    encode_pictures,
)
from .optimizers import Together, adam
from .portraits import EYE_BOX, MOUTH_BOX, WALLS, Person, Pose, draw, draw_person, in_front_of
from .voices import MOTIONS, motion_of, voice_of

PEOPLE = 3000
"""Seeds 0..PEOPLE are trained on; the held-out people come after them."""
LATENT_NOISE = 0.1
"""Spread of the noise added to the latents in training, so that the decoder forgives the transformer's errors."""
PICTURES = 16
CLIPS, CLIP_LATENTS = 12, 2
"""The last latent of each clip is decoded; those before it are the past of the decoder."""
DECODED_CLIPS, DECODED_CLIP_LATENTS = 6, 5
PICTURE_SHARE = 0.3
"""How often a batch of clips is one of pictures: the first frame of a video is alone in its latent."""
MOTION_WEIGHT = 0.2
TRACKS = 60
FRAME_RATES = (16, 25)

Trained = TypeVar("Trained", bound=torch.nn.Module)


def to_pixels(frames: np.ndarray) -> Tensor:
    """uint8 [..., T, H, W, 3] -> float32 [..., 3, T, H, W] in -1..1."""
    return torch.from_numpy(frames).movedim(-1, -4).float() / 127.5 - 1


def random_person(rng: np.random.Generator) -> Person:
    person = draw_person(int(rng.integers(PEOPLE)))
    return in_front_of(person, str(rng.choice(list(WALLS)))) if rng.random() < 0.5 else person


def random_pose(rng: np.random.Generator) -> np.ndarray:
    """[5], in the order of `MOTIONS`."""
    mouth, tongue, blink, lift, turn = rng.random(5)
    shown = rng.random(4) < (0.7, 0.2, 0.7, 0.7)
    return np.array([mouth * shown[0], tongue, blink * shown[1], lift * shown[2], turn * shown[3]])


def pose_of(motion: np.ndarray) -> Pose:
    return Pose(**dict(zip(MOTIONS, motion.tolist(), strict=True)))


def random_picture(rng: np.random.Generator) -> np.ndarray:
    """uint8 [64, 64, 3]."""
    return draw(random_person(rng), pose_of(random_pose(rng)))


class Talking:
    """Short clips of people that talk, stand still, or change at random."""

    def __init__(self, seed: int) -> None:
        voices = (voice_of(np.random.default_rng([seed, 2, n]), 8.0) for n in range(TRACKS))
        self.tracks = [motion_of(voice).numpy() for voice in voices]

    def motion(self, rng: np.random.Generator, frames: int) -> np.ndarray:
        """[frames, 5]."""
        kind = rng.random()
        if kind < 0.2:
            return np.repeat(random_pose(rng)[None], frames, axis=0)
        if kind < 0.35:
            key_frames = np.arange(0, frames + 3, 3)
            values = np.stack([random_pose(rng) for _ in key_frames])
            return np.stack([np.interp(np.arange(frames), key_frames, row) for row in values.T], axis=1)
        track = self.tracks[rng.integers(len(self.tracks))]
        step = FEATURE_RATE / FRAME_RATES[rng.integers(len(FRAME_RATES))]
        times = rng.uniform(0, len(track) - 1 - step * frames) + step * np.arange(frames)
        return np.stack([np.interp(times, np.arange(len(track)), row) for row in track.T], axis=1)

    def clips(self, rng: np.random.Generator, count: int, latents: int) -> Tensor:
        """[count, 3, 4 * latents, 64, 64] in -1..1, every clip of another person."""
        videos = []
        for _ in range(count):
            person = random_person(rng)
            videos.append(np.stack([draw(person, pose_of(row)) for row in self.motion(rng, STRIDE * latents)]))
        return to_pixels(np.stack(videos))


def weight_map() -> Tensor:
    """[64, 64] weight of each pixel's error: the small parts that move count most."""
    weights = torch.ones(64, 64)
    weights[EYE_BOX] = 2.0
    weights[MOUTH_BOX] = 3.0
    return weights


def reconstruction_loss(output: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    error = output - target
    edges = sum(F.l1_loss(output.diff(dim=d), target.diff(dim=d)) for d in (-1, -2))
    return ((error.abs() + 0.5 * error.square()) * weights).mean() + 0.5 * edges


def unexplained_motion(output: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Share of what moves in clips [B, 3, T, H, W] that the output lacks: a mouth is so small that no other loss asks
    for it."""
    moved = target - target.mean(dim=2, keepdim=True)
    error = output - output.mean(dim=2, keepdim=True) - moved
    return (error.square() * weights).mean() / ((moved.square() * weights).mean() + 1e-4)


def unit_spread_loss(z: Tensor) -> Tensor:
    """Keeps every channel of the latents [B, 16, ...] at mean 0 and spread 1."""
    channels = z.transpose(0, 1).flatten(1)
    return channels.mean(dim=1).square().mean() + (channels.std(dim=1) - 1).square().mean()


def noisy(z: Tensor) -> Tensor:
    return z + LATENT_NOISE * torch.randn_like(z)


def picture_step(vae: WanVAE, rng: np.random.Generator, weights: Tensor) -> Tensor:
    pixels = to_pixels(np.stack([random_picture(rng) for _ in range(PICTURES)])[:, None])[:, :, 0]
    z = encode_pictures(vae, pixels)
    output = decode_pictures(vae, noisy(z))
    return reconstruction_loss(output, pixels, weights) + 0.02 * unit_spread_loss(z)


def clip_step(vae: WanVAE, rng: np.random.Generator, weights: Tensor, talking: Talking) -> Tensor:
    if rng.random() < PICTURE_SHARE:
        return picture_step(vae, rng, weights)
    pixels = talking.clips(rng, CLIPS, CLIP_LATENTS)
    with torch.no_grad():
        past = encode_clips(vae, pixels[:, :, :-STRIDE])
    now = pixels[:, :, -STRIDE:]
    z = encode_clips(vae, now)
    output = decode_clips(vae, noisy(torch.cat([past, z], dim=2)), 1)
    loss = reconstruction_loss(output, now, weights) + MOTION_WEIGHT * unexplained_motion(output, now, weights)
    return loss + 0.02 * unit_spread_loss(z)


def decoder_step(vae: WanVAE, rng: np.random.Generator, weights: Tensor, talking: Talking) -> Tensor:
    """Latents as they are given to the transformer, two of them decoded, so that nothing flickers where one ends; the
    encoder stays as it is."""
    pixels = talking.clips(rng, DECODED_CLIPS, DECODED_CLIP_LATENTS)
    with torch.no_grad():
        z = from_model_space(noisy(to_model_space(encode_clips(vae, pixels))))
    output, now = decode_clips(vae, z, 2), pixels[:, :, -2 * STRIDE :]
    return reconstruction_loss(output, now, weights) + MOTION_WEIGHT * unexplained_motion(output, now, weights)


def train(
    model: Trained,
    loss_of: Callable[[Trained, np.random.Generator], Tensor],
    file: Path,
    steps: int,
    rate: float,
    seed: int,
    last: float = 0.02,
    optimizer_of: Callable[[torch.nn.Module], Together] = adam,
) -> None:
    """The rate falls to `last` of it over the last 40 % of the steps; continues from `file` where it exists."""
    optimizer = optimizer_of(model)
    done = load_state(file, model, optimizer)
    started, average = time.monotonic(), 0.0
    for step in range(done, steps):
        rng = np.random.default_rng([seed, step])
        torch.manual_seed(seed * 1_000_003 + step)
        loss = loss_of(model, rng)
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(rate * min(1.0, (step + 1) / 30, max((1 - step / steps) / 0.4, last)))
        average = loss.item() if step == done else 0.95 * average + 0.05 * loss.item()
        if step % 20 == 0 or step == steps - 1:
            print(f"{file.stem} {step} loss {average:.4f} {time.monotonic() - started:.0f} s", flush=True)
        if (step + 1) % 100 == 0 or step == steps - 1:
            save_state(file, model, optimizer, step + 1)


@torch.no_grad()
def fold_statistics(vae: WanVAE, clips: Tensor) -> None:
    """Give the raw latents of `clips` [B, 3, 4 n, H, W] the mean and spread of the published VAE's, channel by channel,
    without changing pixels."""
    z = encode_clips(vae, clips).transpose(0, 1).flatten(1)
    scale = torch.tensor(latent_space.STD) / z.std(dim=1)
    shift = torch.tensor(latent_space.MEAN) - z.mean(dim=1) * scale
    channels = vae.config.z_dim
    vae.conv2.bias -= (vae.conv2.weight[:, :, 0, 0, 0] * (shift / scale)).sum(dim=1)
    vae.conv2.weight /= scale[None, :, None, None, None]
    vae.conv1.weight[:channels] *= scale[:, None, None, None, None]
    vae.conv1.bias[:channels] = vae.conv1.bias[:channels] * scale + shift
    vae.conv1.weight[channels:], vae.conv1.bias[channels:] = 0.0, -6.0


def train_whole(folder: Path, picture_steps: int, clip_steps: int, seed: int) -> None:
    """Writes vae.pt."""
    vae, weights, talking = WanVAE(VAE), weight_map(), Talking(seed)
    begin_as_pictures(vae)
    pictures = folder / "vae_pictures.pt"
    train(vae, lambda v, rng: picture_step(v, rng, weights), pictures, picture_steps, 3e-3, seed, last=0.5)
    torch.manual_seed(seed)
    begin_as_clips(vae)
    clips = folder / "vae_clips.pt"
    train(vae, lambda v, rng: clip_step(v, rng, weights, talking), clips, clip_steps, 3e-3, seed + 1)
    vae.requires_grad_(False)
    fold_statistics(vae, talking.clips(np.random.default_rng([seed, 10**9]), 64, CLIP_LATENTS))
    torch.save(vae.state_dict(), folder / "vae.pt")


def refine_decoder(
    folder: Path,
    loss_of: Callable[[WanVAE, np.random.Generator], Tensor],
    steps: int,
    rate: float,
    seed: int,
    optimizer_of: Callable[[torch.nn.Module], Together] = adam,
) -> None:
    """Goes on with the decoder of vae.pt, which may happen while the transformer learns its latents."""
    vae = WanVAE(VAE)
    vae.load_state_dict(torch.load(folder / "vae.pt", weights_only=True))
    vae.encoder.requires_grad_(False)
    vae.conv1.requires_grad_(False)
    train(vae, loss_of, folder / "vae_decoder.pt", steps, rate, seed, optimizer_of=optimizer_of)
    torch.save(vae.state_dict(), folder / "vae_refined.pt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints are kept")
    parser.add_argument("--picture-steps", type=int, default=700)
    parser.add_argument("--clip-steps", type=int, default=900)
    parser.add_argument("--decoder-steps", type=int, default=0, help="go on with the decoder of vae.pt instead")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # more wait for each other on a busy machine
    torch.manual_seed(arguments.seed)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.decoder_steps:
        weights, talking = weight_map(), Talking(arguments.seed)

        def loss_of(vae: WanVAE, rng: np.random.Generator) -> Tensor:
            return decoder_step(vae, rng, weights, talking)

        refine_decoder(arguments.folder, loss_of, arguments.decoder_steps, 2e-3, arguments.seed + 2)
    else:
        train_whole(arguments.folder, arguments.picture_steps, arguments.clip_steps, arguments.seed)


if __name__ == "__main__":
    main()
