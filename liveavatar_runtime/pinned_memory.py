"""System memory that a CUDA card reads and writes by itself: a few buffers of exactly the size that is needed.

PyTorch's own pinned memory rounds every block up to a power of two and keeps it when it is freed: the caches of the
14B model at 720x400, 45 GiB, would take 85, and a second video of another size would pin its blocks beside those.
"""

import logging
import sys
import weakref
from collections.abc import Iterable
from typing import Any, Protocol

import psutil
import torch
from torch import Tensor

from .texts import gib

log = logging.getLogger(__name__)

BUFFER_BYTES = 4 << 30
"""Largest buffer: where not all of it may be pinned, some buffers are."""
ALIGNMENT = 256
"""Of tensors in a buffer, in bytes."""
PORTABLE = 1
"""cudaHostRegisterPortable: for all cards of the process."""
PINNED_SHARE = 0.4 if sys.platform == "win32" else 0.9
"""Of the system's memory. Windows pins half of it at most."""


class Pinning(Protocol):
    """Who pins memory, and how much of it in all."""

    def pin(self, memory: Tensor) -> bool:
        """Pins a tensor [bytes] of system memory; False where that is not possible or would be too much."""
        ...

    def unpin(self, memory: Tensor) -> None:
        """Undoes `pin`."""
        ...


class DriverPinning:
    """By the driver, up to a share of the system's memory; for processes that nobody else pins memory in."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = int(PINNED_SHARE * psutil.virtual_memory().total) if limit is None else limit
        self._pinned = 0

    def pin(self, memory: Tensor) -> bool:
        if self._pinned + memory.nbytes > self._limit:
            return False
        if int(_driver().cudaHostRegister(memory.data_ptr(), memory.nbytes, PORTABLE)) != 0:
            return False
        self._pinned += memory.nbytes
        return True

    def unpin(self, memory: Tensor) -> None:
        _driver().cudaHostUnregister(memory.data_ptr())
        self._pinned -= memory.nbytes


def _driver() -> Any:
    return torch.cuda.cudart()


BY_DRIVER = DriverPinning()


class HostMemory:
    """Tensors of known sizes for a device to copy from and to, one after the other out of few buffers.

    `sizes`: bytes of each tensor, in the order in which they are taken. On CUDA the buffers are pinned as far as
    `pinning` does so; others are ordinary memory, from which copies are slower and wait. All are given back when this
    is closed or freed; tensors that are still held then stay valid, as ordinary memory.
    """

    def __init__(self, sizes: Iterable[int], device: torch.device, pinning: Pinning) -> None:
        self._places = _placed(sizes)
        ends: dict[int, int] = {}
        for buffer, start, size in self._places:
            ends[buffer] = start + size
        self._buffers = [torch.empty(size, dtype=torch.uint8) for size in ends.values()]
        self._next = 0
        pinned = [buffer for buffer in self._buffers if device.type == "cuda" and pinning.pin(buffer)]
        self.nbytes, self.pinned_bytes = (sum(b.nbytes for b in part) for part in (self._buffers, pinned))
        if device.type == "cuda" and self.pinned_bytes < self.nbytes:
            log.warning(
                "%s of %s for KV caches in RAM could not be pinned; copies from there are slower",
                *(gib(self.nbytes - self.pinned_bytes), gib(self.nbytes)),
            )
        self._closed = weakref.finalize(self, _give_back, pinned, device, pinning)
        # The driver does it itself when the process ends, and may be gone before.
        self._closed.atexit = False

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """The next tensor; its values are whatever was there."""
        buffer, start, size = self._places[self._next]
        self._next += 1
        tensor = self._buffers[buffer][start : start + size].view(dtype).view(shape)
        assert tensor.nbytes == size, "tensors are taken in the order of their sizes"
        return tensor

    def rewind(self) -> None:
        """Begin again with the first tensor: what was taken is no longer used."""
        self._next = 0

    def close(self) -> None:
        """Give the buffers back; again does nothing."""
        self._closed()


def _placed(sizes: Iterable[int]) -> list[tuple[int, int, int]]:
    """Number of the buffer, first byte and size of each tensor."""
    places: list[tuple[int, int, int]] = []
    buffer = start = 0
    for size in sizes:
        if start and start + size > BUFFER_BYTES:
            buffer, start = buffer + 1, 0
        places.append((buffer, start, size))
        start += -(-size // ALIGNMENT) * ALIGNMENT
    return places


def _give_back(pinned: list[Tensor], device: torch.device, pinning: Pinning) -> None:
    if pinned:
        # Copies that are still under way need it.
        torch.cuda.synchronize(device)
    for buffer in pinned:
        pinning.unpin(buffer)
