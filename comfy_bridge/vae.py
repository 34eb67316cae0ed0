"""The runtime's streaming VAE with the weights of a ComfyUI VAE."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import comfy.latent_formats
import comfy.model_management
import torch
from torch import Tensor

from liveavatar_runtime.errors import InputError

from .memory import load_on_device, patcher_for
from .progress import stop_if_interrupted


@dataclass(frozen=True, eq=False)
class StreamingVAE:
    """The runtime's WanVAE under ComfyUI's memory management, on the device and in the dtype of the original."""

    patcher: Any
    dtype: torch.dtype

    def on_device(self) -> tuple[Any, torch.device]:
        """The module, loaded, and its device."""
        from liveavatar_runtime.out_of_memory import full_device_told

        place = self.patcher.load_device
        ways = ["starting ComfyUI with --cpu-vae", "the VAE in bf16 (--bf16-vae)", "closing other programs"]
        with full_device_told("loading the VAE", place, lambda: ways):
            device = load_on_device(self.patcher)
        return self.patcher.model, device

    @cached_property
    def colours(self) -> torch.Tensor:
        """Factors and bias [17, 3] that turn this VAE's latents into colours, for previews."""
        from liveavatar_runtime.vae.preview import preview_factors

        return preview_factors(self.on_device()[0], published_colours(), stop_if_interrupted)


_BY_VAE: "WeakKeyDictionary[Any, StreamingVAE]" = WeakKeyDictionary()


def streaming_vae(vae: Any) -> StreamingVAE:
    """Made once for each VAE object and dropped with it; the weights are shared, not copied."""
    if vae not in _BY_VAE:
        from liveavatar_runtime.vae import load_wan_vae

        tensors = tensors_of_vae(vae)
        device, offload, dtype = vae_settings(vae)
        module = load_wan_vae(tensors, dtype=dtype)
        _BY_VAE[vae] = StreamingVAE(patcher_for(module, device, offload), dtype)
    return _BY_VAE[vae]


def published_colours() -> Tensor:
    """Factors and bias [17, 3] from latents to colours that ComfyUI has for the released Wan 2.1 VAE."""
    known = comfy.latent_formats.Wan21()
    return torch.tensor([*known.latent_rgb_factors, known.latent_rgb_factors_bias])


def tensors_of_vae(vae: Any) -> dict[str, Tensor]:
    """Weights of a ComfyUI VAE. Raises InputError when none is connected."""
    if vae is None:
        raise InputError(
            "no VAE: this model has none of its own. Connect Load VAE with wan_2.1_vae.safetensors to the vae input."
        )
    return vae.get_sd()


def vae_settings(vae: Any) -> tuple[torch.device, torch.device, torch.dtype]:
    """Device, waiting place and dtype that ComfyUI chose for a VAE."""
    return vae.device, comfy.model_management.vae_offload_device(), vae.vae_dtype
