"""Large tensors in a file instead of in memory: an hour of voice is 18 GB of features for the 14B model."""

import math
import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from ..errors import MachineError

IN_MEMORY_BYTES = 2**28
CHUNK_BYTES = 2**24


def zeros(
    shape: tuple[int, ...], dtype: torch.dtype, folder: Path | None = None, in_memory: int = IN_MEMORY_BYTES
) -> Tensor:
    """Zeros on the CPU. Above `in_memory` bytes they are mapped from a file in `folder` (system's temporary one).

    The file is gone with the last tensor that looks into it, also when the process is killed; on Windows, where an
    open file stays, when the folder is emptied. Raises MachineError when the disk has no room.
    """
    count = math.prod(shape)
    size = count * dtype.itemsize
    if size <= in_memory:
        return torch.zeros(shape, dtype=dtype)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix="liveavatar-features-", dir=folder)
    try:
        # Every byte must be there: writing to a mapped hole on a full disk would kill the process.
        _reserve(descriptor, size)
        return torch.from_file(name, shared=True, size=count, dtype=dtype).view(shape)
    except OSError as error:
        raise MachineError(
            f"the features of this voice need {size / 2**30:.1f} GiB in {Path(name).parent}: {error}. Make room there, "
            "or make the video in parts with a shorter voice each."
        ) from error
    finally:
        os.close(descriptor)
        if os.name != "nt" or os.path.getsize(name) < size:
            os.unlink(name)


def _reserve(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    chunk = bytes(CHUNK_BYTES)
    for start in range(0, size, CHUNK_BYTES):
        os.write(descriptor, chunk[: size - start])
