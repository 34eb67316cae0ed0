"""Memory of decoding, predicted."""

import torch

from .config import VaeConfig


def decode_bytes_per_pixel(vae: "VaeConfig", dtype: torch.dtype) -> int:
    return 2 * 25 * vae.dim * dtype.itemsize
