"""The runtime's streaming VAE with the weights of a ComfyUI VAE."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import comfy.latent_formats
import comfy.model_management
import torch
from torch import Tensor

from liveavatar_runtime.errors import InputError
from liveavatar_runtime.progress import Progress

from .comfy_types import Managed, Vae
from .memory import load_on_device, patcher_for
from .progress import stop_if_interrupted

if TYPE_CHECKING:
    from liveavatar_runtime.online_video import BlockDecoder
    from liveavatar_runtime.vae import PlacedVAE, WanVAE
    from liveavatar_runtime.vae.config import VaeConfig
    from liveavatar_runtime.vae.online_decoder import VideoStart


@dataclass(frozen=True, eq=False)
class ManagedVAE:
    """The runtime's WanVAE under ComfyUI's memory management, on the device and in the dtype of the original."""

    patcher: "Managed[WanVAE]"
    dtype: torch.dtype
    told: str = ""

    @property
    def past_latents(self) -> int:
        return self.patcher.model.config.decoder_past_latents

    def decoder(self, priming: Tensor, start: "VideoStart | None", progress: Progress) -> "BlockDecoder":
        """Loaded, and primed with latents [16, n, h, w]."""
        from liveavatar_runtime.vae.online_decoder import OnlineDecoder
        from liveavatar_runtime.vae.state import counted

        place = self.on_device()
        on_layer = counted(progress, priming.shape[1] * place.vae.decoder.layers)
        return OnlineDecoder(place, priming, start, on_layer)

    def on_device(self) -> "PlacedVAE":
        """The module, loaded."""
        from liveavatar_runtime.vae.model import PlacedVAE

        return PlacedVAE(self.patcher.model, loaded(self.patcher), self.dtype)

    @cached_property
    def colours(self) -> torch.Tensor:
        """Factors and bias [17, 3] that turn this VAE's latents into colours, for previews."""
        from liveavatar_runtime.vae.preview import preview_factors

        return preview_factors(self.on_device().vae, published_colours(), stop_if_interrupted)


def loaded(patcher: Managed[torch.nn.Module]) -> torch.device:
    """The device that a VAE is on, where it is loaded. Raises DeviceFullError."""
    from liveavatar_runtime.out_of_memory import full_device_told

    ways = ["starting ComfyUI with --cpu-vae", "the VAE in bf16 (--bf16-vae)", "closing other programs"]
    with full_device_told("loading the VAE", patcher.load_device, lambda: ways):
        return load_on_device(patcher)


_BY_VAE: "WeakKeyDictionary[Vae, ManagedVAE]" = WeakKeyDictionary()


def managed_vae(vae: Vae | None) -> ManagedVAE:
    """Made once for each VAE object and dropped with it; the weights are shared, not copied. On the device and in the
    dtype that ComfyUI chose. Raises InputError when no VAE is connected, or another one than Wan 2.1's."""
    from liveavatar_runtime.vae import load_wan_vae

    if vae is None:
        raise InputError(
            "no VAE: this model has none of its own. Connect Load VAE with wan_2.1_vae.safetensors to the vae input."
        )
    if vae not in _BY_VAE:
        module = load_wan_vae(vae.get_sd(), dtype=vae.vae_dtype)
        offload = comfy.model_management.vae_offload_device()
        _BY_VAE[vae] = ManagedVAE(patcher_for(module, vae.device, offload), vae.vae_dtype)
    return _BY_VAE[vae]


def vae_place() -> tuple[torch.device, torch.dtype]:
    """Where ComfyUI will put a Wan VAE that is not loaded yet, and the dtype that it will choose."""
    device = comfy.model_management.vae_device()
    return device, comfy.model_management.vae_dtype(device, [torch.bfloat16, torch.float16, torch.float32])


@lru_cache(4)
def vae_parameters(config: "VaeConfig") -> int:
    """Numbers of all weights of a VAE of these sizes."""
    from liveavatar_runtime.vae.model import WanVAE

    return sum(weight.numel() for weight in WanVAE(config, operations=torch.nn, device="meta").parameters())


def published_colours() -> Tensor:
    """Factors and bias [17, 3] from latents to colours that ComfyUI has for the released Wan 2.1 VAE."""
    known = comfy.latent_formats.Wan21()
    return torch.tensor([*known.latent_rgb_factors, known.latent_rgb_factors_bias])
