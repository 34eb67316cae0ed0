"""Talking portraits as the transformer learns them: latents, reference, motion history, voice features, prompt."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from demo.architecture import AUDIO_ENCODER, AUDIO_PREPROCESSOR
from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.audio.wav2vec2 import Wav2Vec2Encoder, load_wav2vec2
from liveavatar_runtime.duration import FRAMES_PER_BLOCK
from liveavatar_runtime.vae import WanVAE, to_model_space

from .clip_vae import STRIDE, encode_clips
from .portraits import Person, Pose, draw, draw_person, in_front_of
from .text import random_prompt
from .train_vae import PEOPLE, to_pixels
from .voices import MOTIONS, RATE, motion_of, voice_of

BLOCKS = 4
"""Blocks of a training sequence: as many as the ring cache holds."""
FRAME_RATES = (Fraction(16), Fraction(25))
TRACK_SECONDS = 8.0


@dataclass(frozen=True)
class Track:
    """A voice with its features and the motion it causes, both at 50 Hz."""

    audio: AvatarAudio
    motion: AvatarAudio


@dataclass(frozen=True)
class Examples:
    """M sequences: latents [M, 16, 3 * BLOCKS, h, w] and that of the still picture [M, 16, 1, h, w] in the model's
    space; audio float16 [M, BLOCKS, layers, audio_dim, 12]; words[m] the colour of the wall, "" for the picture's."""

    latents: Tensor
    still: Tensor
    audio: Tensor
    words: list[str]

    def save(self, file: Path) -> None:
        torch.save(vars(self), file)

    @classmethod
    def load(cls, files: list[Path]) -> "Examples":
        """All examples of several files."""
        parts = [torch.load(file, weights_only=True) for file in files]
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0] if name != "words"}
        return cls(**joined, words=[word for part in parts for word in part["words"]])


def load_audio_encoder(folder: Path) -> Wav2Vec2Encoder:
    weights = torch.load(folder / "audio.pt", weights_only=True)
    return load_wav2vec2(weights, {**AUDIO_ENCODER, **AUDIO_PREPROCESSOR})


def shown_motion(waveform: Tensor) -> AvatarAudio:
    """The motion as videos show it, one row for what a person hears.

    It comes one frame of the encoder (20 ms) later: a frame hears the 25 ms that begin at its time, and the alignment
    with video frames runs ahead by up to 27 ms at the end of a track.
    """
    motion = motion_of(waveform)
    delayed = torch.cat([motion[:1], motion[:-1]])
    return AvatarAudio(delayed[None, None], waveform, RATE)


def make_track(encoder: Wav2Vec2Encoder, waveform: Tensor) -> Track:
    audio, motion = AvatarAudio(encoder.encode_long(waveform, RATE)[None], waveform, RATE), shown_motion(waveform)
    assert audio.features.shape[2] == motion.features.shape[2]
    return Track(audio, motion)


def poses(track: Track, first: int, frames: int, fps: Fraction) -> list[Pose]:
    """How a person moves in video frames [first, first + frames): the same alignment as that of the features."""
    motion = track.motion.aligned(first, frames, fps)[0, 0]
    return [Pose(**dict(zip(MOTIONS, frame.tolist(), strict=True))) for frame in motion.T]


def video(person: Person, moves: list[Pose]) -> np.ndarray:
    """uint8 [T, 64, 64, 3]."""
    return np.stack([draw(person, pose) for pose in moves])


@torch.no_grad()
def encode(vae: WanVAE, videos: Tensor) -> Tensor:
    """[B, 3, 4 n, H, W] -> latents [B, 16, n, h, w] in the model's space; one picture for four equal frames."""
    return to_model_space(encode_clips(vae, videos.expand(-1, -1, max(STRIDE, videos.shape[2]), -1, -1)))


def build(folder: Path, vae: WanVAE, count: int, tracks: int, seed: int) -> Examples:
    """Seeded examples; `folder` holds the trained audio encoder."""
    audio_encoder = load_audio_encoder(folder)
    known = [
        make_track(audio_encoder, voice_of(np.random.default_rng([seed, n]), TRACK_SECONDS)) for n in range(tracks)
    ]
    pictures, videos, audio, words = [], [], [], []
    for number in range(count):
        rng = np.random.default_rng([seed, 1, number])
        person = draw_person(int(rng.integers(PEOPLE)))
        word = random_prompt(rng)[1]
        fps, track = FRAME_RATES[rng.integers(len(FRAME_RATES))], known[rng.integers(tracks)]
        frames = BLOCKS * FRAMES_PER_BLOCK
        first = int(rng.integers(0, int(TRACK_SECONDS * fps) - frames))
        pictures.append(draw(person, Pose())[None])
        videos.append(video(in_front_of(person, word), poses(track, first, frames, fps)))
        features = track.audio.aligned(first, frames, fps)[0].unflatten(-1, (BLOCKS, -1)).movedim(-2, 0)
        audio.append(features.half())
        words.append(word or "")
    parts = []
    for start in range(0, count, 16):
        stop = start + 16
        parts.append([encode(vae, to_pixels(np.stack(some[start:stop]))) for some in (videos, pictures)])
        print(f"encoded {min(stop, count)} of {count}", flush=True)
    latents, still = (torch.cat(part) for part in zip(*parts, strict=True))
    return Examples(latents, still, torch.stack(audio), words)
