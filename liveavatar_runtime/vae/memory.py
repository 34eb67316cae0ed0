"""Memory of decoding and encoding, predicted."""

import torch

from .config import VaeConfig


def decode_bytes_per_pixel(vae: "VaeConfig", dtype: torch.dtype) -> int:
    return 2 * 25 * vae.dim * dtype.itemsize


def encode_bytes_per_pixel(vae: "VaeConfig", dtype: torch.dtype) -> int:
    """State of the streaming encoder, about 15 * dim values, and the peak of one chunk beside it."""
    return 36 * vae.dim * dtype.itemsize
