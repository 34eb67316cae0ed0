"""How the VAE's activations lie in memory: cards convolve numbers whose channels lie side by side.

A card's convolutions read and write [B, T, H, W, C] and convert what lies otherwise, before and after each of them. So
there the shapes stay [B, C, T, H, W] and the memory is that of `channels_last_3d`, from a chunk's first convolution to
its last, weights included. Streams that are saved are contiguous, as always.
"""

import torch
from torch import Tensor, nn

from ..device_kinds import FUSED_FORMS

HALF = (torch.float16, torch.bfloat16)


def channels_lie_last(device: torch.device, dtype: torch.dtype) -> bool:
    """On CUDA in half precision: float32 has no such kernels on all cards, nor has ROCm."""
    return device.type in FUSED_FORMS and dtype in HALF and torch.version.hip is None


def memory_format(x: Tensor) -> torch.memory_format:
    """How x [B, C, T, H, W] or [B, C, H, W] lies."""
    last = torch.channels_last_3d if x.ndim == 5 else torch.channels_last
    # A tensor of one channel or one pixel lies both ways.
    return last if not x.is_contiguous() and x.is_contiguous(memory_format=last) else torch.contiguous_format


def with_plain_strides(x: Tensor) -> Tensor:
    """x, whose channels lie last, with the strides that PyTorch gives such a tensor itself.

    Views can leave other ones where a size is 1. They mean nothing, but kernels take x for contiguous then and convert.
    """
    if memory_format(x) == torch.contiguous_format:
        return x
    strides, stride = [0] * x.ndim, 1
    for dim in (1, *reversed(range(2, x.ndim)), 0):
        strides[dim], stride = stride, stride * x.shape[dim]
    return x.as_strided(x.shape, strides)


def lay_out(module: nn.Module) -> None:
    """Give a module's convolutions weights that lie as its activations do; at once where they do."""
    for weight in module.parameters():
        if weight.ndim in (4, 5) and weight.shape[1] > 1 and channels_lie_last(weight.device, weight.dtype):
            last = torch.channels_last_3d if weight.ndim == 5 else torch.channels_last
            weight.data = weight.data.contiguous(memory_format=last)
