"""What a model in workers computes with, as a short content hash, cheap also for 30 GB of weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint.gguf_io import GgufTensors
from ..checkpoint.lora import fit_lora, open_lora
from ..checkpoint.quantised import weight_shapes
from ..checkpoint.safetensors_io import open_checkpoint
from ..sampling.fingerprint import Fingerprint
from ..vae.checkpoint import DTYPES
from .channel import dtype_name

SAMPLES = 256
"""Numbers of each tensor that are looked at, spread over all of it; training changes nearly every weight."""


def weights_key(path: Path, loras: Sequence[tuple[Path, float]], dtype: str) -> str:
    """Over the file's weights, what LoRAs change in them and how strongly, and the number format of the computation.

    Of a LoRA the changes count, not its bytes: its scale may come from a file beside it.
    """
    fingerprint = Fingerprint().add("dtype", dtype)
    checkpoint = open_checkpoint(path)
    for name, shape in sorted(checkpoint.shapes.items()):
        if isinstance(checkpoint.tensors, GgufTensors):
            fingerprint.add(name, list(shape)).add(name, checkpoint.tensors.packed(name, SAMPLES))
        else:
            _add(fingerprint, name, checkpoint.tensors[name])
    shapes = weight_shapes(checkpoint) if loras else {}
    for file, strength in loras:
        fingerprint.add("strength", strength)
        for change in fit_lora(open_lora(file), shapes).changes:
            fingerprint.add(change.target, [change.kind.name, change.scale.value])
            for name in sorted(change.parts):
                _add(fingerprint, name, change.parts[name])
    return fingerprint.hexdigest()


def _add(fingerprint: Fingerprint, name: str, tensor: Tensor) -> None:
    fingerprint.add(name, [str(tensor.dtype), list(tensor.shape)]).add(name, _sampled(tensor))


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
