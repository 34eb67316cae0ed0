"""What a model in workers computes with, as a short content hash, cheap also for 30 GB of weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint.safetensors_io import read_tensors
from ..sampling.fingerprint import Fingerprint
from ..vae.checkpoint import DTYPES
from .channel import dtype_name

SAMPLES = 256
"""Numbers of each tensor that are looked at, spread over all of it; training changes nearly every weight."""


def weights_key(path: Path, loras: Sequence[tuple[Path, float]], dtype: str) -> str:
    """Over the files' weights, the LoRAs' with their strengths, and the number format of the computation."""
    fingerprint = Fingerprint().add("dtype", dtype)
    for file, strength in ((path, 1.0), *loras):
        tensors = read_tensors(file)[0]
        fingerprint.add("strength", strength)
        for name in sorted(tensors):
            fingerprint.add(name, [str(tensors[name].dtype), list(tensors[name].shape)])
            fingerprint.add(name, _sampled(tensors[name]))
    return fingerprint.hexdigest()


def vae_keys(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """A VAE file's key in each dtype that it may be loaded in: ComfyUI may hold the same file in another one."""
    return {dtype_name(dtype): vae_key(weights, dtype) for dtype in DTYPES}


def vae_key(weights: Mapping[str, Tensor], dtype: torch.dtype) -> str:
    """Over a VAE's weights as they are in `dtype`."""
    fingerprint = Fingerprint().add("dtype", dtype_name(dtype))
    for name in sorted(weights):
        fingerprint.add(name, list(weights[name].shape))
        fingerprint.add(name, _sampled(weights[name].detach()).to(dtype))
    return fingerprint.hexdigest()


def _sampled(tensor: Tensor) -> Tensor:
    flat = tensor.reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLES)].clone()
