"""Large tensors in a file instead of in memory: an hour of voice is 18 GB of features for the 14B model."""

import math
import mmap
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from ..errors import MachineError, reason_of, replaced
from ..texts import gib

IN_MEMORY_BYTES = 2**28
CHUNK_BYTES = 2**24


Reserve = Callable[[int, int], None]
"""Makes room for frames [first, stop) of every row, which must come before they are written. Raises MachineError."""


def zeros(
    shape: tuple[int, ...], dtype: torch.dtype, folder: Path | None = None, in_memory: int = IN_MEMORY_BYTES
) -> Tensor:
    """Zeros on the CPU. Above `in_memory` bytes they are mapped from a file in `folder` (system's temporary one).

    The file is gone with the last tensor that looks into it, on every system, also when the process is killed: it has
    no name from the beginning, or Windows removes it with the last handle, which is the map's. Raises MachineError
    when the disk has no room.
    """
    size = math.prod(shape) * dtype.itemsize
    if size <= in_memory:
        return torch.zeros(shape, dtype=dtype)
    with replaced((OSError, MemoryError), partial(_no_room, size, folder)), _temporary(folder) as file:
        # Every byte must be there: writing to a mapped hole on a full disk would kill the process.
        _reserve(file, size)
        return torch.frombuffer(mmap.mmap(file.fileno(), size), dtype=dtype).view(shape)


def zeros_in_parts(
    rows: int, frames: int, width: int, dtype: torch.dtype, folder: Path | None = None, in_memory: int = IN_MEMORY_BYTES
) -> tuple[Tensor, Reserve]:
    """As `zeros`, [rows, frames, width], but the disk's room is taken frame by frame, by the function returned with it.

    On Windows all of it is taken at once, as a file has no holes there.
    """
    size = rows * frames * width * dtype.itemsize
    if size <= in_memory or not hasattr(os, "pwrite"):
        return zeros((rows, frames, width), dtype, folder, in_memory), _nothing
    with replaced((OSError, MemoryError), partial(_no_room, size, folder)), _temporary(folder) as file:
        os.ftruncate(file.fileno(), size)
        whole = torch.frombuffer(mmap.mmap(file.fileno(), size), dtype=dtype).view(rows, frames, width)
        handle = _Handle(os.dup(file.fileno()))

    def reserve(first: int, stop: int) -> None:
        each = width * dtype.itemsize
        with replaced(OSError, partial(_no_room, rows * (stop - first) * each, folder)):
            for row in range(rows):
                handle.reserve((row * frames + first) * each, (stop - first) * each)

    return whole, reserve


def _nothing(first: int, stop: int) -> None:
    """All of it is there."""


class _Handle:
    """Of the file behind a map, closed with the last who reserves in it."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __del__(self) -> None:
        os.close(self._number)

    def reserve(self, start: int, size: int) -> None:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._number, start, size)
            return
        chunk = bytes(CHUNK_BYTES)
        for place in range(start, start + size, CHUNK_BYTES):
            os.pwrite(self._number, chunk[: start + size - place], place)


def _temporary(folder: Path | None) -> IO[bytes]:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryFile(prefix="liveavatar-features-", dir=folder)


def _no_room(size: int, folder: Path | None, error: BaseException) -> MachineError:
    where = folder or tempfile.tempdir or "the system's temporary folder"
    return MachineError(
        f"the features of this voice need {gib(size)} in {where}: {reason_of(error)}. Make room there, or make the "
        "video in parts with a shorter voice each."
    )


def _reserve(file: IO[bytes], size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    chunk = bytes(CHUNK_BYTES)
    for start in range(0, size, CHUNK_BYTES):
        file.write(chunk[: size - start])
    file.flush()
