"""GGUF files, unpacked by the gguf package: each tensor is read when it is asked for, and nothing stays mapped."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError, replaced
from ..reading import readable
from .gguf_header import Stored, read_gguf_header

INSTALL = "Install the package that reads GGUF files: pip install gguf"
# How NumPy reads what is no block of several values.
NUMBERS = {"F32": np.float32, "F16": np.float16}


class GgufTensors(Mapping[str, Tensor]):
    """Tensors of a GGUF file by name; every access unpacks: F16, F32 and BF16 as stored, all others to float32.

    `shapes` needs no unpacking. `kinds` holds the names of the stored types ("Q8_0", "F16", ...).
    """

    def __init__(self, file: Path, stored: Mapping[str, Stored], shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._file, self._stored, self.shapes = file, stored, dict(shapes)
        self.kinds = sorted({tensor.kind.name for tensor in stored.values()})

    def __getitem__(self, name: str) -> Tensor:
        with readable(self._file):
            return _unpack(self._file, self._stored[name]).reshape(self.shapes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def stored_at(self, name: str) -> tuple[str, int, int]:
        """The name of a tensor's stored type, and where in the file it is: first byte and number of bytes."""
        tensor = self._stored[name]
        return tensor.kind.name, tensor.offset, tensor.size

    def renamed(self, names: Mapping[str, str]) -> "GgufTensors":
        """Only the tensors of `names` (new name -> name here), under the new names."""
        stored = {new: self._stored[old] for new, old in names.items()}
        return GgufTensors(self._file, stored, {new: self.shapes[old] for new, old in names.items()})


def open_gguf(path: Path) -> tuple[GgufTensors, dict[str, str]]:
    """Tensors of a GGUF file and those of its metadata that are texts.

    Raises CheckpointError when the file is damaged, or has a type that the installed gguf package cannot unpack.
    """
    with replaced(ImportError, lambda error: CheckpointError(f"{path} is a GGUF file. {INSTALL}")):
        import gguf  # noqa: F401
    header = read_gguf_header(path)
    _check_types(path, {tensor.kind for tensor in header.tensors.values()})
    return GgufTensors(path, header.tensors, header.shapes), header.texts


def _check_types(path: Path, types: set[Any]) -> None:
    from gguf import GGML_QUANT_SIZES, quants

    for kind in types:
        probe = np.zeros((1, GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
        too_new = CheckpointError(
            f"{path} holds {kind.name} tensors, which the installed gguf package cannot unpack. "
            "Use a Q8_0, Q6_K, Q5_K or Q4_K file, or update the package: pip install -U gguf"
        )
        with replaced(NotImplementedError, lambda error, too_new=too_new: too_new):
            if kind.name not in ("F32", "F16", "BF16"):
                quants.dequantize(probe, kind)


def _unpack(file: Path, tensor: Stored) -> Tensor:
    """Read, not mapped: of a mapped file all that was unpacked would stay in memory beside what came out."""
    kind = tensor.kind.name
    number = np.dtype(NUMBERS.get(kind, np.uint8))
    data = np.fromfile(file, dtype=number, count=tensor.size // number.itemsize, offset=tensor.offset)
    if data.nbytes < tensor.size:
        raise EOFError(f"the file ends {tensor.size - data.nbytes:,} bytes early")
    if kind in NUMBERS:
        return torch.from_numpy(data)
    if kind == "BF16":
        return torch.from_numpy(data).view(torch.bfloat16)
    from gguf import quants

    rows = int(np.prod(tensor.shape[:-1]))
    return torch.from_numpy(quants.dequantize(data.reshape(rows, -1) if rows else data, tensor.kind))
