"""Latents of a picture that does not move, without encoding the long still video."""

import torch
from torch import Tensor

from ..errors import InputError
from .config import VaeConfig
from .model import PICTURE_CHANNELS, WanVAE
from .state import EncodeState, OnLayer, StillHistory, go_on


def settled_latent(vae: WanVAE, picture: Tensor, on_layer: OnLayer = go_on) -> Tensor:
    """The latent [16, 1, h, w] that a still video of `picture` [3, H, W] in -1..1 reaches and keeps.

    All layers see equal frames for ever there, so that one chunk whose past is its own first frame gives it.
    """
    _check_picture(vae, picture)
    return vae.encode_chunk(_still_video(picture, vae.config.temporal_stride), StillHistory(on_layer))[0].float()


def still_chunks(config: VaeConfig, latent_frames: int, first_latent: int = 0) -> int:
    """Chunks that `encode_still` computes for these latents; each calls `on_layer` `Encoder.layers` times."""
    moving, settled = _split(config, latent_frames, first_latent)
    return moving + bool(settled)


def _split(config: VaeConfig, latent_frames: int, first_latent: int) -> tuple[int, int]:
    """Latents to encode from the start of the video (0 for none), and how many settled ones follow."""
    end = first_latent + latent_frames
    moving_end = min(end, config.transient_latents)
    return moving_end if first_latent < moving_end else 0, end - max(first_latent, moving_end)


def encode_still(
    vae: WanVAE, picture: Tensor, latent_frames: int, first_latent: int = 0, on_layer: OnLayer = go_on
) -> Tensor:
    """Latents first_latent .. first_latent + latent_frames of an endless still video -> raw [16, latent_frames, h, w].

    `picture` is [3, H, W] in -1..1. The start of a video, where the convolutions still see that nothing came before
    (`VaeConfig.transient_latents`: 28 latents for the released VAE), is encoded as far as it is asked for; all later
    latents are equal and cost one chunk together. The original's motion history, the last 19 of 92 latents, is
    `encode_still(vae, picture, 19, first_latent=73)` and takes 4 frames of work instead of 365; its reference is
    `encode_still(vae, picture, 1, first_latent=1)`.
    """
    _check_picture(vae, picture)
    if latent_frames < 1 or first_latent < 0:
        raise InputError(
            f"latent_frames is {latent_frames} and first_latent {first_latent}; allowed are at least 1 and at least 0"
        )
    moving, settled = _split(vae.config, latent_frames, first_latent)
    parts = []
    if moving:
        video = _still_video(picture, vae.config.video_frames(moving))
        parts.append(vae.encode_stream(video, EncodeState(watch=on_layer))[0, :, first_latent:])
    if settled:
        parts.append(settled_latent(vae, picture, on_layer).expand(-1, settled, -1, -1))
    return torch.cat(parts, dim=1)


def _still_video(picture: Tensor, frames: int) -> Tensor:
    """[3, H, W] -> [1, 3, frames, H, W] without copies."""
    return picture[None, :, None].expand(-1, -1, frames, -1, -1)


def _check_picture(vae: WanVAE, picture: Tensor) -> None:
    side = vae.config.spatial_stride
    if picture.ndim != 3 or picture.shape[0] != PICTURE_CHANNELS or 0 in picture.shape:
        raise InputError(f"the picture has shape {list(picture.shape)}; allowed is [3, height, width]")
    if picture.shape[1] % side or picture.shape[2] % side:
        raise InputError(
            f"the picture is {picture.shape[2]}x{picture.shape[1]}; width and height must be multiples of {side}: "
            "fit it to the video's size first"
        )
