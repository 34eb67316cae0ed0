"""Tensors at their places in safetensors files: read one by one, or mapped in parts where the whole is refused.

safetensors and PyTorch map a file for private writing, and then the system sets memory for all of it aside: a file
larger than memory is refused, though hardly any of that would ever be used.
"""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .header import read_header

WINDOW = 2**30
"""Bytes of a file that are mapped together. Each map keeps the file open once more, and systems limit that number."""

PIECE = 2**15
"""Values that are converted at once. Few, because the C library does not always use the gap again that they leave, and
because PyTorch would share out more among threads, which takes longer than to convert them."""


@dataclass(frozen=True)
class Place:
    """Where in a safetensors file a tensor is: byte `offset`, and what it is there."""

    file: Path
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, dtype: torch.dtype | None = None) -> Tensor:
        """The tensor in memory of its own, in `dtype` if it is given.

        Converted piece by piece, so that nothing else of its size is ever in memory. Raises EOFError when the file has
        become shorter.
        """
        with self.file.open("rb", buffering=0) as file:
            file.seek(self.offset)
            if dtype is None or dtype == self.dtype:
                stored = torch.empty(self.size, dtype=torch.uint8)
                read_into(file, stored)
                return self.of(stored)
            result = torch.empty(self.shape, dtype=dtype)
            piece = torch.empty(min(PIECE, result.numel()), dtype=self.dtype)
            for part in result.view(-1).split(PIECE):
                read_into(file, piece[: len(part)].view(torch.uint8))
                part.copy_(piece[: len(part)])
            return result

    def of(self, stored: Tensor) -> Tensor:
        """The tensor over its bytes, uint8 [size]."""
        return stored.view(self.dtype).reshape(self.shape)


def read_into(file: Any, stored: Tensor) -> None:
    """The next bytes of a file into a tensor of bytes."""
    buffer: Any = stored.numpy()
    rest = memoryview(buffer)
    while rest:
        count = file.readinto(rest)
        if not count:
            raise EOFError(f"the file ends {len(rest):,} bytes early")
        rest = rest[count:]


def places_in(path: Path) -> dict[str, Place]:
    """Name -> place of each tensor in a complete safetensors file; only the header is read.

    Raises CheckpointError as `read_header` does.
    """
    header = read_header(path)
    return {
        name: Place(path, header.start + entry.start, entry.shape, entry.dtype)
        for name, entry in header.entries.items()
    }


def mapped_in_windows(places: Mapping[str, Place], window: int = WINDOW) -> dict[str, Tensor]:
    """The tensors as views of memory maps of at most `window` bytes (or one tensor) each.

    A system that refuses one map of a whole file, because all memory is less, allows many small ones. Windows adds
    them up, so there they are read-only, which needs no memory set aside: nothing may write to such weights in place.
    """
    tensors: dict[str, Tensor] = {}
    for group in _grouped(places, window):
        file, start = group[0][1].file, group[0][1].offset
        size = max(place.offset + place.size for _, place in group) - start
        mapped = np.memmap(file, np.uint8, mode="r" if os.name == "nt" else "c", offset=start, shape=(size,))
        stored = _as_tensor(mapped)
        for name, place in group:
            tensors[name] = place.of(stored[place.offset - start :][: place.size])
    empty = {name: torch.empty(place.shape, dtype=place.dtype) for name, place in places.items() if not place.size}
    return {name: tensors[name] if name in tensors else empty[name] for name in places}


def _grouped(places: Mapping[str, Place], window: int) -> Iterator[list[tuple[str, Place]]]:
    """Neighbours in a file, in groups that one window covers."""
    ordered = sorted(
        ((name, place) for name, place in places.items() if place.size),
        key=lambda item: (str(item[1].file), item[1].offset),
    )
    cuts = [0]
    for number, (_, place) in enumerate(ordered):
        first = ordered[cuts[-1]][1]
        if place.file != first.file or place.offset + place.size - first.offset > window and number > cuts[-1]:
            cuts.append(number)
    yield from (ordered[start:end] for start, end in pairwise([*cuts, len(ordered)]) if end > start)


def _as_tensor(mapped: np.ndarray) -> Tensor:
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(mapped)


class FileTensors(Mapping[str, Tensor]):
    """Tensors of safetensors files that are read anew at every access, for where no map at all is possible.

    `shapes` and `dtypes` need no reading.
    """

    def __init__(self, places: Mapping[str, Place]) -> None:
        self._places = dict(places)
        self.shapes = {name: place.shape for name, place in places.items()}
        self.dtypes = {name: place.dtype for name, place in places.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self._places[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def renamed(self, names: Mapping[str, str]) -> "FileTensors":
        """Only the tensors of `names` (new name -> name here), under the new names."""
        return FileTensors({new: self._places[old] for new, old in names.items()})
