"""The Wan 2.1 video VAE: encode, decode and both as streams."""

from .checkpoint import load_wan_vae
from .config import (
    WAN_2_1,
    VaeConfig,
    from_model_space,
    infer_config,
    to_model_space,
)
from .model import PlacedVAE, WanVAE
from .state import DecodeState, EncodeState
from .still import encode_still, settled_latent, still_chunks

__all__ = [
    "WAN_2_1",
    "DecodeState",
    "EncodeState",
    "PlacedVAE",
    "VaeConfig",
    "WanVAE",
    "encode_still",
    "from_model_space",
    "infer_config",
    "load_wan_vae",
    "settled_latent",
    "still_chunks",
    "to_model_space",
]
