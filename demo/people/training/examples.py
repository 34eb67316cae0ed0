"""Drawn videos as the transformer learns them: latents, still pictures, voice features, prompts."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from demo.architecture import VAE
from demo.training.dataset import encode, load_audio_encoder
from demo.training.train_vae import to_pixels
from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.vae import WanVAE

from ..speech import RATE
from .videos import BLOCKS, FRAMES, Videos

TOGETHER = 8
"""Videos that are encoded at once."""
LISTS = ("prompts", "later", "changes")


@dataclass(frozen=True)
class Examples:
    """M sequences: latents float16 [M, 16, 3 * BLOCKS, h, w] and that of the still picture [M, 16, 1, h, w] in the
    model's space; audio float16 [M, BLOCKS, layers, audio_dim, 12]; pose, latents of what drives the heads, zeros where
    nothing does; prompts, and those that replace them from block `changes` on, 0: never."""

    latents: Tensor
    still: Tensor
    audio: Tensor
    pose: Tensor
    prompts: list[str]
    later: list[str]
    changes: list[int]

    def save(self, file: Path) -> None:
        partial = file.with_suffix(".partial")
        torch.save(vars(self), partial)
        partial.replace(file)

    @classmethod
    def load(cls, files: list[Path]) -> "Examples":
        """All examples of several files."""
        parts = [torch.load(file, weights_only=True) for file in files]

        def tensors(name: str) -> Tensor:
            return torch.cat([part[name] for part in parts])

        prompts, later, changes = ([one for part in parts for one in part[name]] for name in LISTS)
        return cls(tensors("latents"), tensors("still"), tensors("audio"), tensors("pose"), prompts, later, changes)


def _encoded(vae: WanVAE, frames: np.ndarray) -> Tensor:
    """uint8 [B, T, H, W, 3] -> float16 [B, 16, T / 4, h, w]."""
    return encode(vae, to_pixels(frames)).half()


def encode_videos(folder: Path, videos_folder: Path, file: Path) -> None:
    """Writes `file` of the videos of a folder, unless it is there; `folder` holds vae.pt and audio.pt."""
    if file.exists():
        return
    torch.set_num_threads(1)
    vae = WanVAE(VAE)
    vae.load_state_dict(torch.load(folder / "vae.pt", weights_only=True))
    encoder, videos = load_audio_encoder(folder), Videos.load(videos_folder)
    features = [AvatarAudio(encoder.encode_long(sound[None], RATE)[None], sound[None], RATE) for sound in videos.sounds]
    latents, still, audio, pose = [], [], [], []
    for start in range(0, len(videos.scenes), TOGETHER):
        part = slice(start, start + TOGETHER)
        latents.append(_encoded(vae, videos.frames[part].copy()))
        still.append(_encoded(vae, videos.stills[part][:, None]))
        drives = videos.drives
        pose.append(torch.zeros_like(latents[-1]) if drives is None else _encoded(vae, drives[part].copy()))
        for scene in videos.scenes[part]:
            heard = features[scene.track].aligned(scene.first, FRAMES, Fraction(scene.fps))[0]
            audio.append(heard.unflatten(-1, (BLOCKS, -1)).movedim(-2, 0).half())
        print(f"encoded {min(start + TOGETHER, len(videos.scenes))} of {len(videos.scenes)}", flush=True)
    scenes = videos.scenes
    Examples(
        torch.cat(latents),
        torch.cat(still),
        torch.stack(audio),
        torch.cat(pose),
        [scene.prompt for scene in scenes],
        [scene.later for scene in scenes],
        [scene.change or 0 for scene in scenes],
    ).save(file)
