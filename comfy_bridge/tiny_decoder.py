"""Small decoders (taew2_1, lighttaew2_1) that ComfyUI's Load VAE gives, in place of the Wan 2.1 VAE's decoder."""

from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import comfy.model_management
import torch
from torch import Tensor

from liveavatar_runtime.progress import Progress

from .comfy_types import Managed, Vae
from .memory import patcher_for
from .vae import loaded

if TYPE_CHECKING:
    from liveavatar_runtime.online_video import BlockDecoder
    from liveavatar_runtime.vae.online_decoder import VideoStart
    from liveavatar_runtime.vae.tiny import TinyDecoder

SOFTER = (
    "The connected VAE is a small decoder: it is fast and takes little memory, and fine detail is softer. For the best "
    "picture connect the Wan 2.1 VAE here too."
)


@dataclass(frozen=True, eq=False)
class ManagedTinyDecoder:
    """A small decoder under ComfyUI's memory management, on the device and in the dtype of the original."""

    patcher: "Managed[TinyDecoder]"
    dtype: torch.dtype
    told: str = SOFTER

    @property
    def past_latents(self) -> int:
        return self.patcher.model.past_latents

    def decoder(self, priming: Tensor, start: "VideoStart | None", progress: Progress) -> "BlockDecoder":
        """Loaded, and primed with latents [16, n, h, w], which takes no time worth showing."""
        from liveavatar_runtime.vae.online_decoder import TinyOnlineDecoder
        from liveavatar_runtime.vae.tiny import PlacedTinyDecoder

        place = PlacedTinyDecoder(self.patcher.model, loaded(self.patcher), self.dtype)
        return TinyOnlineDecoder(place, priming, start)


_BY_VAE: "WeakKeyDictionary[Vae, ManagedTinyDecoder]" = WeakKeyDictionary()


def is_tiny(vae: Vae) -> bool:
    from liveavatar_runtime.vae.tiny import is_tiny_decoder

    return is_tiny_decoder(vae.get_sd())


def managed_tiny_decoder(vae: Vae) -> ManagedTinyDecoder:
    """Made once for each VAE object and dropped with it; the weights are shared. Raises CheckpointError for one of
    other latents."""
    from liveavatar_runtime.vae.tiny import load_tiny_decoder

    if vae not in _BY_VAE:
        # Core tells taew2_1 (float16) from lighttaew2_1 by the file's dtype, and takes the former for the same network
        # of HunyuanVideo; the latents here are Wan's, so taew2_1 is what it must be.
        normalised = getattr(vae.first_stage_model, "latent_format", None) is not None
        module = load_tiny_decoder(vae.get_sd(), vae.vae_dtype, normalised)
        offload = comfy.model_management.vae_offload_device()
        _BY_VAE[vae] = ManagedTinyDecoder(patcher_for(module, vae.device, offload), vae.vae_dtype)
    return _BY_VAE[vae]
