"""Teaches the demo's wav2vec2 to hear what people move to: loudness, brightness, pauses. It stays frozen afterwards."""

import argparse
import inspect
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from demo.architecture import AUDIO_ENCODER, AUDIO_PREPROCESSOR
from demo.build_demo import SEED
from demo.weights import audio_weights
from liveavatar_runtime.audio.wav2vec2 import Wav2Vec2Encoder, load_wav2vec2

from .voices import MOTIONS, RATE, motion_of, voice_of

forward = inspect.unwrap(Wav2Vec2Encoder.encode_prepared)
"""The encoder with gradients: `forward(encoder, samples, rate)`."""


def first_encoder() -> Wav2Vec2Encoder:
    weights = {name: value.float() for name, value in audio_weights(AUDIO_ENCODER, SEED).items()}
    encoder = load_wav2vec2(weights, {**AUDIO_ENCODER, **AUDIO_PREPROCESSOR})
    return encoder.requires_grad_(True)


def explained(encoder: Wav2Vec2Encoder, seeds: list[int]) -> dict[str, float]:
    """R^2 of a linear probe on the mean hidden state, fitted on half of the tracks, for each motion."""
    inputs, targets = [], []
    for seed in seeds:
        track = voice_of(np.random.default_rng(seed), 6.0)
        states = encoder.encode(track, RATE).mean(dim=0)
        inputs.append(torch.cat([states, torch.ones(len(states), 1)], dim=1))
        targets.append(motion_of(track))
    half = len(seeds) // 2
    fitted = torch.linalg.lstsq(torch.cat(inputs[:half]), torch.cat(targets[:half])).solution
    truth, guess = torch.cat(targets[half:]), torch.cat(inputs[half:]) @ fitted
    r2 = 1 - (truth - guess).square().mean(dim=0) / truth.var(dim=0)
    return dict(zip(MOTIONS, r2.tolist(), strict=True))


def train(steps: int, seed: int) -> Wav2Vec2Encoder:
    encoder = first_encoder()
    print("before:", explained(encoder, list(range(900, 916))), flush=True)
    # The probe that the hidden states are trained for; the transformer learns its own reading of them.
    probe = nn.Linear(encoder.config.dim, len(MOTIONS))
    parameters = [*encoder.parameters(), *probe.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    tracks = [voice_of(np.random.default_rng([seed, n]), 4.0) for n in range(250)]
    prepared = [(encoder.prepare(track, RATE)[0], motion_of(track)) for track in tracks]
    started = time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 20, max((1 - step / steps) / 0.5, 0.02))
        samples, target = prepared[np.random.default_rng([seed, 1, step]).integers(len(prepared))]
        states: Tensor = forward(encoder, samples, RATE)
        loss = (probe(states.mean(dim=0)) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 50 == 0:
            print(f"audio {step} loss {loss.item():.5f} {time.monotonic() - started:.0f} s", flush=True)
    encoder.requires_grad_(False)
    print("after:", explained(encoder, list(range(900, 916))), flush=True)
    return encoder


def hugging_face_weights(encoder: Wav2Vec2Encoder) -> dict[str, Tensor]:
    """The weights under the names that `load_wav2vec2` reads, the positional convolution split by its weight norm."""
    position = "wav2vec2.encoder.pos_conv_embed.conv"
    weights: dict[str, Tensor] = {}
    for name, value in encoder.model.state_dict().items():
        name = name.removeprefix("encoder.") if name.startswith("encoder.feature_projection.") else name
        weights["wav2vec2." + name.replace("encoder.transformer.", "encoder.")] = value.contiguous()
    kernel = weights.pop(f"{position}.weight")
    weights[f"{position}.parametrizations.weight.original0"] = kernel.norm(dim=(0, 1), keepdim=True)
    weights[f"{position}.parametrizations.weight.original1"] = kernel
    weights["wav2vec2.masked_spec_embed"] = torch.zeros(encoder.config.dim)
    return weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    weights = hugging_face_weights(train(arguments.steps, arguments.seed))
    torch.save(weights, arguments.folder / "audio.pt")


if __name__ == "__main__":
    main()
