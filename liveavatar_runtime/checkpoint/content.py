"""Tensors as short hashes of every byte that they are stored as: read once, in the order of the file, in pieces.

A hash of a tensor is a SHA-256 over those of its pieces, so that several cores hash one tensor. In the same pass the
numbers are looked at that are none: one of them in a weight spoils every video.
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..fingerprint import byte_chunks
from ..progress import Progress
from .gguf_io import GgufTensors
from .safetensors_io import Checkpoint, readable
from .stored import PIECE, read_into

CHUNK_BYTES = 2**23
"""Bytes that are hashed together. Part of the result: other pieces give other hashes."""
THREADS = min(8, os.cpu_count() or 1)
NOT_FINITE = {torch.float8_e4m3fn: 0x7F, torch.float8_e5m2: 0x7C}
"""Bytes without their sign from which on values of formats are NaN or infinite, for which PyTorch lacks arithmetic."""


@dataclass(frozen=True)
class Content:
    """`digest` of a tensor's format, shape and bytes; `broken`: how many of its `count` numbers are NaN or infinite."""

    digest: str
    broken: int
    count: int


class Stored(Protocol):
    """A tensor where it is stored: its format by name and, if its numbers can be looked at, as a dtype."""

    @property
    def kind(self) -> str: ...

    @property
    def dtype(self) -> torch.dtype | None: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    def pieces(self) -> Iterator[Any]:
        """The bytes in order, uint8 arrays of `CHUNK_BYTES` at most."""
        ...


@dataclass(frozen=True)
class InFile:
    """At a byte of a file, from which it is read, not mapped: of a mapped file all would count as used memory."""

    file: Path
    offset: int
    size: int
    shape: tuple[int, ...]
    kind: str
    dtype: torch.dtype | None

    def pieces(self) -> Iterator[Any]:
        with readable(self.file), self.file.open("rb", buffering=0) as file:
            file.seek(self.offset)
            for start in range(0, self.size, CHUNK_BYTES):
                piece = empty_piece(min(CHUNK_BYTES, self.size - start))
                read_into(file, piece)
                yield piece.numpy()


def empty_piece(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8)


@dataclass(frozen=True, eq=False)
class InMemory:
    """A tensor of any device, or a view of a mapped file."""

    tensor: Tensor

    @property
    def kind(self) -> str:
        return str(self.tensor.dtype)

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def size(self) -> int:
        return self.tensor.numel() * self.tensor.element_size()

    def pieces(self) -> Iterator[Any]:
        return byte_chunks(self.tensor, CHUNK_BYTES)


def stored_tensors(checkpoint: Checkpoint) -> dict[str, Stored]:
    """Of a checkpoint, in the order of its files."""
    if isinstance(checkpoint.tensors, GgufTensors):
        files = ((name, _packed(checkpoint.path, checkpoint.tensors, name)) for name in checkpoint.tensors)
        in_order: list[tuple[str, InFile]] = sorted(files, key=lambda item: item[1].offset)
        return {**dict(in_order)}
    placed = {
        name: InFile(place.file, place.offset, place.size, place.shape, str(place.dtype), place.dtype)
        for name, place in sorted(checkpoint.places.items(), key=lambda item: (str(item[1].file), item[1].offset))
    }
    others = {name: InMemory(checkpoint.tensors[name]) for name in checkpoint.shapes if name not in placed}
    return {**placed, **others}


def _packed(file: Path, tensors: GgufTensors, name: str) -> InFile:
    kind, offset, size = tensors.stored_at(name)
    plain = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}.get(kind)
    return InFile(file, offset, size, tensors.shapes[name], str(plain) if plain else kind, plain)


def contents(tensors: Mapping[str, Stored], progress: Progress | None = None) -> dict[str, Content]:
    """Of each tensor, read in the order given. Some pieces for each core are in memory at once, however large the whole
    is."""
    total, done = sum(tensor.size for tensor in tensors.values()), 0
    digests = {name: _head(tensor) for name, tensor in tensors.items()}
    broken = dict.fromkeys(tensors, 0)
    waiting: deque[tuple[str, int, Future[tuple[bytes, int]]]] = deque()

    def take() -> None:
        nonlocal done
        name, size, looked_at = waiting.popleft()
        digest, bad = looked_at.result()
        digests[name].update(digest)
        broken[name] += bad
        done += size
        if progress is not None:
            progress(done, total)

    with ThreadPoolExecutor(THREADS) as pool:
        for name, tensor in tensors.items():
            for piece in tensor.pieces():
                waiting.append((name, piece.nbytes, pool.submit(_look_at, piece, tensor.dtype)))
                if len(waiting) > 2 * THREADS:
                    take()
        while waiting:
            take()
    return {
        name: Content(digests[name].hexdigest(), broken[name], torch.Size(tensor.shape).numel())
        for name, tensor in tensors.items()
    }


def _head(tensor: Stored) -> "hashlib._Hash":
    return hashlib.sha256(json.dumps([tensor.kind, list(tensor.shape), tensor.size]).encode() + b"\n")


def _look_at(piece: Any, dtype: torch.dtype | None) -> tuple[bytes, int]:
    return hashlib.sha256(piece).digest(), 0 if dtype is None else broken_numbers(torch.from_numpy(piece).view(dtype))


def broken_numbers(values: Tensor) -> int:
    """How many values of a tensor [n] on the CPU are NaN or infinite; none of integers are."""
    if values.dtype in NOT_FINITE:
        first = NOT_FINITE[values.dtype]
        magnitudes = (part & 0x7F for part in values.view(torch.uint8).split(PIECE))
        return sum(int((part >= first).sum()) for part in magnitudes if int(part.max()) >= first)
    if not values.is_floating_point() or values.element_size() < 2:
        return 0
    # The extremes are NaN where a value is; to find them is ten times as fast as to look at each value.
    return sum(int((~part.isfinite()).sum()) for part in values.split(PIECE) if not _ends_finite(part))


def _ends_finite(part: Tensor) -> bool:
    low, high = torch.aminmax(part)
    return bool(low.isfinite()) and bool(high.isfinite())
