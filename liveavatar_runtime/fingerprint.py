"""Content hashes: what makes two things the same one."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 2**26


class Fingerprint:
    """A growing SHA-256 over named values: tensors by dtype, shape and bytes, all else by its JSON."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, name: str, value: Any) -> "Fingerprint":
        """Take in a tensor of any device, or a value that JSON knows."""
        if isinstance(value, Tensor):
            self._line(name, [str(value.dtype), list(value.shape)])
            for part in byte_chunks(value):
                self._hash.update(part)
        else:
            self._line(name, value)
        return self

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def _line(self, name: str, value: Any) -> None:
        self._hash.update(json.dumps([name, value], sort_keys=True, default=str).encode() + b"\n")


def byte_chunks(tensor: Tensor, size: int = CHUNK_BYTES) -> Iterator[Any]:
    """The bytes of a tensor in order, as arrays of at most `size`: a long voice's features lie on the disk."""
    flat = tensor.detach().contiguous().reshape(-1)
    count = max(1, size // flat.element_size())
    for start in range(0, flat.numel(), count):
        yield flat[start : start + count].view(torch.uint8).cpu().numpy()
