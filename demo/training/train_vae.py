"""Trains the demo's VAE: first on pictures, then on video streams with the runtime's own streaming calls."""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from demo.architecture import VAE
from liveavatar_runtime.vae import (
    LATENT_MEAN,
    LATENT_STD,
    DecodeState,
    EncodeState,
    WanVAE,
    from_model_space,
    to_model_space,
)
from liveavatar_runtime.vae.layers import Downsample, Upsample

from .checkpoints import load_state, save_state
from .picture_vae import begin_as_pictures, decode_pictures, encode_pictures
from .portraits import EYE_BOX, MOUTH_BOX, WALLS, Person, Pose, draw, draw_person, in_front_of

PEOPLE = 3000
"""Seeds 0..PEOPLE are trained on; the held-out people come after them."""
LATENT_NOISE = 0.1
"""Spread of the noise added to the latents in training, so that the decoder forgives the transformer's errors."""
STREAM_CHUNKS = 5
STREAMS = 16


def to_pixels(frames: np.ndarray) -> Tensor:
    """uint8 [..., T, H, W, 3] -> float32 [..., 3, T, H, W] in -1..1."""
    return torch.from_numpy(frames).movedim(-1, -4).float() / 127.5 - 1


def random_person(rng: np.random.Generator) -> Person:
    person = draw_person(int(rng.integers(PEOPLE)))
    return in_front_of(person, str(rng.choice(list(WALLS)))) if rng.random() < 0.5 else person


def random_pose(rng: np.random.Generator) -> Pose:
    mouth, tongue, lift, turn = rng.random(4)
    return Pose(
        mouth=mouth * (rng.random() < 0.7),
        tongue=tongue,
        blink=rng.random() * (rng.random() < 0.2),
        lift=lift * (rng.random() < 0.7),
        turn=turn * (rng.random() < 0.7),
    )


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


def unit_spread_loss(z: Tensor) -> Tensor:
    """Keeps every channel of the latents [B, 16, ...] at mean 0 and spread 1."""
    channels = z.transpose(0, 1).flatten(1)
    return channels.mean(dim=1).square().mean() + (channels.std(dim=1) - 1).square().mean()


def picture_step(vae: WanVAE, rng: np.random.Generator, batch: int, weights: Tensor) -> Tensor:
    frames = np.stack([draw(random_person(rng), random_pose(rng)) for _ in range(batch)])
    pixels = to_pixels(frames[:, None])[:, :, 0]
    z = encode_pictures(vae, pixels)
    output = decode_pictures(vae, z + LATENT_NOISE * torch.randn_like(z))
    return reconstruction_loss(output, pixels, weights) + 0.02 * unit_spread_loss(z)


def random_video(rng: np.random.Generator, frames: int) -> Iterator[np.ndarray]:
    """A person that stands still for a while, then talks at random; endless."""
    person, still = random_person(rng), int(rng.integers(0, 5))
    speed, phases = rng.uniform(0.2, 1.5, 5), rng.uniform(0, 6.3, 5)
    t = np.maximum(np.arange(frames) - still, 0)
    waves = np.clip(0.5 + 0.75 * np.sin(speed[:, None] * t + phases[:, None]), 0, 1)
    waves[2] = waves[2] > 0.95
    waves[3:] = 0.5 + 0.5 * np.sin(0.15 * speed[3:, None] * t + phases[3:, None])
    waves[:, t == 0] = 0
    for mouth, tongue, blink, lift, turn in waves.T:
        yield draw(person, Pose(mouth=mouth, tongue=tongue, blink=blink, lift=lift, turn=turn))


def video_stream(rng: np.random.Generator, batch: int, chunks: int) -> Tensor:
    """[B, 3, 1 + 4 * chunks, 64, 64]."""
    length = 1 + 4 * chunks
    return to_pixels(np.stack([np.stack(list(random_video(rng, length))) for _ in range(batch)]))


@dataclass
class Stream:
    """A few people's videos: chunks to come, and what the VAE remembers of those before."""

    pending: list[Tensor]
    encoding: EncodeState
    decoding: DecodeState

    @classmethod
    def begin(cls, rng: np.random.Generator, batch: int) -> "Stream":
        chunks = video_stream(rng, batch, STREAM_CHUNKS).split([5, *[4] * (STREAM_CHUNKS - 1)], dim=2)
        return cls(list(chunks), EncodeState(), DecodeState())


class VideoSteps:
    """Gradient steps along streams: each goes one latent frame on; the past is kept but not differentiated.

    Steps alternate at random between many streams: several steps in a row on the same people would unlearn others.
    """

    def __init__(self, batch: int, weights: Tensor) -> None:
        self.batch, self.weights = batch, weights
        self.streams: list[Stream] = []

    def __call__(self, vae: WanVAE, rng: np.random.Generator) -> Tensor:
        if len(self.streams) < STREAMS:
            self.streams.append(Stream.begin(rng, self.batch))
        stream = self.streams[rng.integers(len(self.streams))]
        pixels = stream.pending.pop(0)
        if not stream.pending:
            self.streams.remove(stream)
        z = vae.encode_stream(pixels, stream.encoding)
        output = vae.decode_stream(z + LATENT_NOISE * torch.randn_like(z), stream.decoding)
        for state in (stream.encoding, stream.decoding):
            state.caches = {name: cache.detach() for name, cache in state.caches.items()}
        changes = ((output.diff(dim=2) - pixels.diff(dim=2)).abs() * self.weights).mean()
        # So few people at a time say nothing about the spread of a channel.
        return reconstruction_loss(output, pixels, self.weights) + 2 * changes + 0.002 * z.square().mean()


def learn_time_only(vae: WanVAE) -> None:
    """Freeze what pictures have taught; only the convolutions that halve and double the frame rate go on learning.

    They begin with the mean of the frames that become one.
    """
    vae.requires_grad_(False)
    layer: Any
    for layer in vae.modules():
        if isinstance(layer, (Downsample, Upsample)) and layer.temporal:
            layer.time_conv.requires_grad_(True)
        if isinstance(layer, Downsample) and layer.temporal:
            with torch.no_grad():
                layer.time_conv.weight[:, :, 1] = layer.time_conv.weight[:, :, 2] = layer.time_conv.weight[:, :, 2] / 2


def train(
    vae: WanVAE,
    loss_of: Callable[[WanVAE, np.random.Generator], Tensor],
    file: Path,
    steps: int,
    rate: float,
    seed: int,
) -> None:
    """Adam with a linear decay over the last 40 % of the steps; continues from `file` where it exists."""
    optimizer = torch.optim.Adam([p for p in vae.parameters() if p.requires_grad], lr=rate, betas=(0.9, 0.98))
    done = load_state(file, vae, optimizer)
    started, average = time.monotonic(), 0.0
    for step in range(done, steps):
        rng = np.random.default_rng([seed, step])
        torch.manual_seed(seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 30, max((1 - step / steps) / 0.4, 0.02))
        loss = loss_of(vae, rng)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        average = loss.item() if step == done else 0.95 * average + 0.05 * loss.item()
        if step % 20 == 0 or step == steps - 1:
            print(f"{file.stem} {step} loss {average:.4f} {time.monotonic() - started:.0f} s", flush=True)
        if (step + 1) % 100 == 0 or step == steps - 1:
            save_state(file, vae, optimizer, step + 1)


@torch.no_grad()
def fold_statistics(vae: WanVAE, seed: int) -> None:
    """Give the raw latents the mean and spread of the published VAE, channel by channel, without changing pixels."""
    z = vae.encode(video_stream(np.random.default_rng([seed, 10**9]), 24, 6))[:, :, 1:].transpose(0, 1).flatten(1)
    scale = torch.tensor(LATENT_STD) / z.std(dim=1)
    shift = torch.tensor(LATENT_MEAN) - z.mean(dim=1) * scale
    channels = vae.config.z_dim
    vae.conv2.bias -= (vae.conv2.weight[:, :, 0, 0, 0] * (shift / scale)).sum(dim=1)
    vae.conv2.weight /= scale[None, :, None, None, None]
    vae.conv1.weight[:channels] *= scale[:, None, None, None, None]
    vae.conv1.bias[:channels] = vae.conv1.bias[:channels] * scale + shift
    vae.conv1.weight[channels:], vae.conv1.bias[channels:] = 0.0, -6.0


def decoder_step(vae: WanVAE, rng: np.random.Generator, batch: int, weights: Tensor) -> Tensor:
    """As `picture_step`, with latents as they are given to the transformer, and an encoder that stays as it is."""
    frames = np.stack([draw(random_person(rng), random_pose(rng)) for _ in range(batch)])
    pixels = to_pixels(frames[:, None])
    with torch.no_grad():
        z = to_model_space(encode_pictures(vae, pixels[:, :, 0])[:, :, None])
        z = from_model_space(z + LATENT_NOISE * torch.randn_like(z))[:, :, 0]
    return reconstruction_loss(decode_pictures(vae, z), pixels[:, :, 0], weights)


def refine_decoder(folder: Path, steps: int, seed: int) -> None:
    """Goes on with the decoder of a finished VAE, which may happen while the transformer learns its latents."""
    vae, weights = WanVAE(VAE), weight_map()
    vae.load_state_dict(torch.load(folder / "vae.pt", weights_only=True))
    vae.encoder.requires_grad_(False)
    vae.conv1.requires_grad_(False)
    train(vae, lambda v, rng: decoder_step(v, rng, 16, weights), folder / "vae_decoder.pt", steps, 2e-3, seed + 2)
    torch.save(vae.state_dict(), folder / "vae_refined.pt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints are kept")
    parser.add_argument("--picture-steps", type=int, default=1100)
    parser.add_argument("--video-steps", type=int, default=0)
    parser.add_argument("--decoder-steps", type=int, default=0, help="go on with the decoder of vae.pt instead")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # more wait for each other on a busy machine
    torch.manual_seed(arguments.seed)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.decoder_steps:
        refine_decoder(arguments.folder, arguments.decoder_steps, arguments.seed)
        return
    vae, weights, seed = WanVAE(VAE), weight_map(), arguments.seed
    begin_as_pictures(vae)
    pictures = arguments.folder / "vae_pictures.pt"
    train(vae, lambda v, rng: picture_step(v, rng, 16, weights), pictures, arguments.picture_steps, 3e-3, seed)
    learn_time_only(vae)
    train(vae, VideoSteps(4, weights), arguments.folder / "vae_video.pt", arguments.video_steps, 5e-4, seed + 1)
    vae.requires_grad_(False)
    fold_statistics(vae, seed)
    torch.save(vae.state_dict(), arguments.folder / "vae.pt")


if __name__ == "__main__":
    main()
