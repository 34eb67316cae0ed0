"""Weights as a short content hash, cheap also for 30 GB of them: the same one wherever a file is loaded."""

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

PLACES, RUN = 8, 32
SAMPLES = PLACES * RUN
"""Numbers of each tensor that are looked at, in runs at so many places of it: each place is a read of the disk.
Training changes nearly every weight."""


def weights_key(path: Path, loras: Sequence[tuple[Path, float]]) -> str:
    """Over the file's weights, and what LoRAs change in them and how strongly: equal in ComfyUI and in workers.

    Of a LoRA the changes count, not its bytes: its scale may come from a file beside it. In which format the weights
    are held and computed with is told elsewhere (`sampling.fingerprint.Numerics`).
    """
    fingerprint = Fingerprint()
    checkpoint = open_checkpoint(path)
    for name, shape in sorted(checkpoint.shapes.items()):
        if isinstance(checkpoint.tensors, GgufTensors):
            fingerprint.add(name, list(shape)).add(name, checkpoint.tensors.packed(name, SAMPLES))
        else:
            add_weight(fingerprint, name, checkpoint.tensors[name])
    shapes = weight_shapes(checkpoint) if loras else {}
    for file, strength in loras:
        fingerprint.add("strength", strength)
        for change in fit_lora(open_lora(file), shapes).changes:
            fingerprint.add(change.target, [change.kind.name, change.scale.value])
            for name in sorted(change.parts):
                add_weight(fingerprint, name, change.parts[name])
    return fingerprint.hexdigest()


def add_weight(fingerprint: Fingerprint, name: str, tensor: Tensor) -> None:
    """Take in a tensor of any size and device."""
    fingerprint.add(name, [str(tensor.dtype), list(tensor.shape)]).add(name, sampled(tensor))


def vae_keys(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """A VAE file's key in each dtype that it may be loaded in: ComfyUI may hold the same file in another one."""
    return {dtype_name(dtype): vae_key(weights, dtype) for dtype in DTYPES}


def vae_key(weights: Mapping[str, Tensor], dtype: torch.dtype) -> str:
    """Over a VAE's weights as they are in `dtype`."""
    fingerprint = Fingerprint().add("dtype", dtype_name(dtype))
    for name in sorted(weights):
        fingerprint.add(name, list(weights[name].shape))
        fingerprint.add(name, sampled(weights[name]).to(dtype))
    return fingerprint.hexdigest()


def sampled(tensor: Tensor) -> Tensor:
    """Some numbers of a tensor, from its beginning to its end, on the CPU; of a quantised one those that are stored."""
    stored = getattr(tensor, "_qdata", tensor).detach().as_subclass(Tensor).reshape(-1)
    if stored.numel() <= SAMPLES:
        return stored.cpu().clone()
    # Views, because a mapped file is to be read at these places only.
    starts = [place * (stored.numel() - RUN) // (PLACES - 1) for place in range(PLACES)]
    return torch.stack([stored[start : start + RUN].view(torch.uint8) for start in starts]).cpu().view(stored.dtype)
