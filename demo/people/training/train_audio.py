"""Teaches a wav2vec2 to hear what people move to: the mouth of each sound, loudness, pauses. It stays frozen then."""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from demo.training.train_audio import first_encoder, forward, hugging_face_weights
from demo.training.train_vae import train as train_by
from liveavatar_runtime.audio.wav2vec2 import Wav2Vec2Encoder

from ..motion import HEARD, heard
from ..speech import RATE, track_of

SECONDS = 4.0
CHECKED = 16
"""Held-out tracks."""


class Listener(nn.Module):
    """The encoder, and the reading of its mean hidden state that it is trained for."""

    def __init__(self, encoder: Wav2Vec2Encoder) -> None:
        super().__init__()
        self.encoder, self.probe = encoder, nn.Linear(encoder.config.dim, len(HEARD))

    def told(self, samples: Tensor) -> Tensor:
        """[T, 13] of prepared samples."""
        states: Tensor = forward(self.encoder, samples, RATE)
        return self.probe(states.mean(dim=0))


def explained(listener: Listener) -> dict[str, float]:
    """R^2 of the probe on held-out voices, for each row of what is heard."""
    guesses, truths = [], []
    for number in range(CHECKED):
        track = track_of(np.random.default_rng([78, number]), SECONDS, held_out=True)
        with torch.no_grad():
            guess = listener.told(listener.encoder.prepare(track.sound, RATE)[0])
        truth = torch.from_numpy(heard(track)).float()[: len(guess)]
        guesses.append(guess[: len(truth)])
        truths.append(truth)
    guess, truth = torch.cat(guesses), torch.cat(truths)
    r2 = 1 - (truth - guess).square().mean(dim=0) / (truth.var(dim=0) + 1e-9)
    return {name: round(value, 3) for name, value in zip(HEARD, r2.tolist(), strict=True)}


def train(file: Path, steps: int, tracks: int, seed: int) -> Listener:
    """Continues from `file` where it exists."""
    torch.manual_seed(seed)
    listener = Listener(first_encoder())
    known = [track_of(np.random.default_rng([seed, 2, n]), SECONDS) for n in range(tracks)]
    prepared = [(listener.encoder.prepare(one.sound, RATE)[0], torch.from_numpy(heard(one)).float()) for one in known]

    def loss_of(listener: Listener, rng: np.random.Generator) -> Tensor:
        samples, target = prepared[rng.integers(tracks)]
        told = listener.told(samples)
        frames = min(len(told), len(target))
        return (told[:frames] - target[:frames]).square().mean()

    train_by(listener, loss_of, file, steps, 2e-3, seed)
    return listener


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints are kept")
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--tracks", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    listener = train(arguments.folder / "audio_steps.pt", arguments.steps, arguments.tracks, arguments.seed)
    listener.requires_grad_(False)
    print("held-out voices:", explained(listener), flush=True)
    torch.save(hugging_face_weights(listener.encoder), arguments.folder / "audio.pt")


if __name__ == "__main__":
    main()
