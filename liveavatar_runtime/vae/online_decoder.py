"""Latent blocks to video frames, one block at a time, with the decoder's state carried along."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

from ..aligned import align_weights
from ..out_of_memory import pictures_told
from .config import from_model_space
from .memory import decode_bytes_per_pixel
from .model import PlacedVAE
from .state import DecodeState, OnLayer, go_on
from .tiny import DECODE_VALUES_PER_PIXEL, PlacedTinyDecoder, TinyState

VideoStart = Literal["hold", "trim"]
START_FRAMES = 3
"""Frames at the very start that the decoder cannot know: they lie between the still history and the first latent."""


class _BlockDecoder(ABC):
    """Decodes a video's blocks in order; memory does not grow with their number.

    `start`: "hold" shows the fourth frame in place of the first three, so that picture and sound have the same length;
    "trim" leaves the three out; None for a later segment, which follows frames that were decoded before.
    """

    def __init__(self, device: torch.device, start: VideoStart | None) -> None:
        self.device, self._start = device, start
        self._at_start = start is not None

    def decode(self, latents: Tensor) -> Tensor:
        """latents [16, 3, h, w] in the model's space -> pixels float32 [3, frames, H, W] in -1..1, on the CPU."""
        pixels = self._decode(latents)
        if self._at_start:
            self._at_start = False
            usable = pixels[:, START_FRAMES:]
            held = [usable[:, :1].expand(-1, START_FRAMES, -1, -1)] if self._start == "hold" else []
            pixels = torch.cat([*held, usable], dim=1)
        return pixels

    @abstractmethod
    def _decode(self, latents: Tensor) -> Tensor:
        """The next latent frames, 4 frames each, or 1 of the very first latent frame."""


class OnlineDecoder(_BlockDecoder):
    """By the Wan 2.1 VAE.

    `priming` [16, n, h, w]: latents of the still picture, in the model's space, or those before a later segment.
    `on_layer`: called while the priming latents are decoded, n * `vae.decoder.layers` times.
    """

    def __init__(
        self,
        place: PlacedVAE,
        priming: Tensor,
        start: VideoStart | None,
        on_layer: OnLayer = go_on,
    ) -> None:
        super().__init__(place.device, start)
        self._vae, self._dtype = place.vae, place.dtype
        self._state = DecodeState(watch=on_layer)
        align_weights(place.vae, place.device)
        self._decode(priming)
        # The blocks are decoded in another thread, which the caller watches itself.
        self._state.watch = go_on

    def _decode(self, latents: Tensor) -> Tensor:
        height, width = (size * self._vae.config.spatial_stride for size in latents.shape[-2:])
        each = decode_bytes_per_pixel(self._vae.config, self._dtype)
        told = pictures_told("decoding a block of {size}", (width, height), self.device, each, beside_caches=True)
        with told, torch.inference_mode():
            raw = from_model_space(latents.float())[None].to(device=self.device, dtype=self._dtype)
            return self._vae.decode_stream(raw, self._state)[0].float().clamp(-1, 1).cpu()


class TinyOnlineDecoder(_BlockDecoder):
    """By a small decoder. `priming` as for `OnlineDecoder`; `TinyDecoder.past_latents` of it are enough."""

    def __init__(self, place: PlacedTinyDecoder, priming: Tensor, start: VideoStart | None) -> None:
        super().__init__(place.device, start)
        self._place, self._state = place, TinyState()
        align_weights(place.decoder, place.device)
        if priming.shape[1]:
            self._decode(priming)

    def _decode(self, latents: Tensor) -> Tensor:
        tiny, dtype = self._place.decoder, self._place.dtype
        height, width = (size * tiny.spatial_stride for size in latents.shape[-2:])
        each = DECODE_VALUES_PER_PIXEL * dtype.itemsize
        told = pictures_told("decoding a block of {size}", (width, height), self.device, each, beside_caches=True)
        with told, torch.inference_mode():
            given = latents.float() if tiny.normalised else from_model_space(latents.float())
            pixels = tiny.decode_stream(given.transpose(0, 1).to(self.device, dtype), self._state)
            return pixels.transpose(0, 1).float().mul_(2).sub_(1).clamp_(-1, 1).cpu()
