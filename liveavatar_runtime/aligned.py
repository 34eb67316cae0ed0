"""Where tensors lie in the memory of a processor, because products depend on it.

MKL takes another path through a product, and adds in another order, when an operand starts at another offset from a
multiple of its vector size. Weights that are mapped from a file start wherever the file's header ends, so the same
model gave other last bits than one whose weights were allocated. Here everything that enters a product lies as PyTorch
allocates it. On other devices nothing is done.
"""

import torch
from torch import Tensor, nn

ALIGNMENT = 64
"""Bytes; what PyTorch allocates for a processor starts at a multiple of it."""


STAYS_ON_DISK = "stays_on_disk"
"""Attribute of parameters that are views of a file because memory has no room for a copy."""


def is_aligned(tensor: Tensor) -> bool:
    """Whether a tensor lies as PyTorch would allocate it: without gaps, from a multiple of 64 bytes on. True for those
    of other devices, and for those without elements."""
    if tensor.device.type != "cpu" or not tensor.numel():
        return True
    return tensor.is_contiguous() and tensor.data_ptr() % ALIGNMENT == 0


def aligned(tensor: Tensor) -> Tensor:
    """The tensor itself where it is aligned, else a copy that is."""
    if is_aligned(tensor):
        return tensor
    copy = tensor.new_empty(tensor.shape)
    assert is_aligned(copy), "PyTorch allocates for processors at multiples of 64 bytes"
    return copy.copy_(tensor)


def align_weights(module: nn.Module, device: torch.device) -> None:
    """Give the parameters and buffers of a module that computes on `device` aligned memory, if that is a processor.

    Only what is not aligned is copied. The parameters stay the same objects, those that shared memory share it again,
    and whoever holds the old tensors keeps them. Wrapped tensors (quantised, sharded) are left alone: what they are
    unpacked to is allocated. So are parameters that stay on the disk.
    """
    if device.type != "cpu":
        # What waits in system memory to be moved may be pinned where it is.
        return
    copies: dict[tuple[int, tuple[int, ...], tuple[int, ...]], Tensor] = {}
    for weight in (*module.parameters(), *module.buffers()):
        stored = weight.data
        if type(stored) is not Tensor or is_aligned(stored) or getattr(weight, STAYS_ON_DISK, False):
            continue
        place = stored.data_ptr(), tuple(stored.shape), stored.stride()
        if place not in copies:
            copies[place] = aligned(stored)
        weight.data = copies[place]
