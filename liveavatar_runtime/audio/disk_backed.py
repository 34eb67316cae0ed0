"""Large tensors in a file instead of in memory: an hour of voice is 18 GB of features for the 14B model."""

import math
import mmap
import os
import tempfile
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from ..errors import MachineError, reason_of, replaced
from ..texts import gib

IN_MEMORY_BYTES = 2**28
CHUNK_BYTES = 2**24


def zeros(
    shape: tuple[int, ...], dtype: torch.dtype, folder: Path | None = None, in_memory: int = IN_MEMORY_BYTES
) -> Tensor:
    """Zeros on the CPU. Above `in_memory` bytes they are mapped from a file in `folder` (system's temporary one).

    The file is gone with the last tensor that looks into it, on every system, also when the process is killed: it has
    no name from the beginning, or Windows removes it with the last handle, which is the map's. Raises MachineError
    when the disk has no room.
    """
    count = math.prod(shape)
    size = count * dtype.itemsize
    if size <= in_memory:
        return torch.zeros(shape, dtype=dtype)

    def no_room(error: OSError | MemoryError) -> MachineError:
        where = folder or tempfile.tempdir or "the system's temporary folder"
        return MachineError(
            f"the features of this voice need {gib(size)} in {where}: {reason_of(error)}. Make room there, or make the "
            "video in parts with a shorter voice each."
        )

    with replaced((OSError, MemoryError), no_room):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(prefix="liveavatar-features-", dir=folder) as file:
            # Every byte must be there: writing to a mapped hole on a full disk would kill the process.
            _reserve(file, size)
            return torch.frombuffer(mmap.mmap(file.fileno(), size), dtype=dtype).view(shape)


def _reserve(file: IO[bytes], size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    chunk = bytes(CHUNK_BYTES)
    for start in range(0, size, CHUNK_BYTES):
        file.write(chunk[: size - start])
    file.flush()
