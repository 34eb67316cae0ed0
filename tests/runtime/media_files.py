"""Pictures and sounds that tell where they belong, and what a file gives back."""

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from liveavatar_runtime.media.video import AudioTrack, PictureTrack, Unfinished, VideoWriter

HEIGHT, WIDTH, RATE = 48, 64, 16000
REPOSITORY = Path(__file__).parents[2]


def video_writer(
    path: Path,
    width: int = WIDTH,
    height: int = HEIGHT,
    fps: Fraction = Fraction(16),
    sample_rate: int | None = None,
    channels: int = 1,
    metadata: dict[str, str] | None = None,
    advice: str = "",
    **picture: Any,
) -> VideoWriter:
    """With all that it is given side by side."""
    sound = None if sample_rate is None else AudioTrack(sample_rate, channels)
    return VideoWriter(path, PictureTrack(width, height, fps, **picture), sound, metadata, Unfinished(advice=advice))


def numbered_frames(first: int, count: int) -> torch.Tensor:
    """uint8 [count, H, W, 3]; each frame's brightness tells its number, modulo 40."""
    levels = torch.tensor([20 + 5 * (n % 40) for n in range(first, first + count)], dtype=torch.uint8)
    return levels[:, None, None, None].expand(count, HEIGHT, WIDTH, 3)


def number_of(picture: np.ndarray) -> int:
    return round((float(picture.mean()) - 20) / 5)


def tone(samples: int, first: int = 0, channels: int = 1, rate: int = RATE) -> torch.Tensor:
    time = torch.arange(first, first + samples, dtype=torch.float64) / rate
    return (0.5 * torch.sin(2 * torch.pi * 440 * time)).float().expand(channels, -1)


def decoded(path: Path) -> tuple[list[np.ndarray], list[Fraction]]:
    with av.open(str(path)) as file:
        frames = list(file.decode(file.streams.video[0]))
    return [frame.to_ndarray(format="rgb24") for frame in frames], [frame.pts * frame.time_base for frame in frames]


def decoded_sound(path: Path, exact: bool = True) -> tuple[np.ndarray, int, Fraction]:
    """Samples [C, S], their rate, and the time of the first one; `exact` where times are told in samples."""
    with av.open(str(path)) as file:
        frames = list(file.decode(file.streams.audio[0]))
    assert not exact or all(b.pts - a.pts == a.samples for a, b in zip(frames, frames[1:], strict=False))
    parts = [
        frame.to_ndarray().reshape(-1, frame.layout.nb_channels).T for frame in frames if not frame.format.is_planar
    ]
    return (
        np.concatenate(parts or [f.to_ndarray() for f in frames], 1),
        frames[0].sample_rate,
        frames[0].pts * frames[0].time_base,
    )


def run_python(program: str) -> "subprocess.CompletedProcess[str]":
    """A program in a process of its own, with this folder's modules."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, Path(__file__).parent)))}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
