"""The runtime's streaming VAE with the weights of a ComfyUI VAE."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch

from . import comfy_bridge as bridge


@dataclass(frozen=True, eq=False)
class StreamingVAE:
    """The runtime's WanVAE under ComfyUI's memory management, on the device and in the dtype of the original."""

    patcher: Any
    dtype: torch.dtype

    def on_device(self) -> tuple[Any, torch.device]:
        """The module, loaded, and its device."""
        from liveavatar_runtime.planning.out_of_memory import full_device_told

        place = self.patcher.load_device
        ways = ["starting ComfyUI with --cpu-vae", "the VAE in bf16 (--bf16-vae)", "closing other programs"]
        with full_device_told("loading the VAE", place, lambda: ways):
            device = bridge.load_on_device(self.patcher)
        return self.patcher.model, device

    @cached_property
    def colours(self) -> torch.Tensor:
        """Factors and bias [17, 3] that turn this VAE's latents into colours, for previews."""
        from liveavatar_runtime.vae.preview import preview_factors

        return preview_factors(self.on_device()[0], bridge.published_colours(), bridge.stop_if_interrupted)


_BY_VAE: "WeakKeyDictionary[Any, StreamingVAE]" = WeakKeyDictionary()


def streaming_vae(vae: Any) -> StreamingVAE:
    """Made once for each VAE object and dropped with it; the weights are shared, not copied."""
    if vae not in _BY_VAE:
        from liveavatar_runtime.vae import load_wan_vae

        tensors = bridge.tensors_of_vae(vae)
        device, offload, dtype = bridge.vae_settings(vae)
        module = load_wan_vae(tensors, dtype=dtype)
        _BY_VAE[vae] = StreamingVAE(bridge.patcher_for(module, device, offload), dtype)
    return _BY_VAE[vae]
