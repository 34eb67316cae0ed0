"""GGUF files through the gguf package: each tensor is read and unpacked when it is asked for."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError
from .safetensors_io import AGAIN, readable

MAGIC = b"GGUF"
# GGUF has four axes; converters store the weights of 3D convolutions flat and note their shape under this key.
SHAPE_KEY = "comfy.gguf.orig_shape."
INSTALL = "Install the package that reads GGUF files: pip install gguf"


class GgufTensors(Mapping[str, Tensor]):
    """Tensors of a GGUF file by name; every access unpacks: F16, F32 and BF16 as stored, all others to float32.

    `shapes` needs no unpacking. `kinds` holds the names of the stored types ("Q8_0", "F16", ...).
    """

    def __init__(self, file: Path, stored: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._file, self._stored, self.shapes = file, stored, dict(shapes)
        self.kinds = sorted({tensor.tensor_type.name for tensor in stored.values()})

    def __getitem__(self, name: str) -> Tensor:
        return _unpack(self._file, self._stored[name]).reshape(self.shapes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def packed(self, name: str, count: int) -> Tensor:
        """About `count` of the values as they are stored, spread over the tensor: cheap, as nothing is unpacked."""
        stored = self._stored[name].data.reshape(-1)
        return torch.from_numpy(stored[:: max(1, stored.size // count)].copy())

    def renamed(self, names: Mapping[str, str]) -> "GgufTensors":
        """Only the tensors of `names` (new name -> name here), under the new names."""
        stored = {new: self._stored[old] for new, old in names.items()}
        return GgufTensors(self._file, stored, {new: self.shapes[old] for new, old in names.items()})


def open_gguf(path: Path) -> tuple[GgufTensors, dict[str, str]]:
    """Tensors of a GGUF file and those of its metadata that are texts.

    Raises CheckpointError when the file is damaged, or has a type that the installed gguf package cannot unpack.
    """
    try:
        import gguf
    except ImportError as error:
        raise CheckpointError(f"{path} is a GGUF file. {INSTALL}") from error
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise CheckpointError(f"{path} does not start as a GGUF file does. {AGAIN}")
    with readable(path):
        reader = gguf.GGUFReader(path)
        stored = {tensor.name: tensor for tensor in reader.tensors}
        texts = {
            name: str(field.contents())
            for name, field in reader.fields.items()
            if field.types == [gguf.GGUFValueType.STRING]
        }
        shapes = {name: _shape(reader, tensor) for name, tensor in stored.items()}
    _check_types(path, {tensor.tensor_type for tensor in stored.values()})
    return GgufTensors(path, stored, shapes), texts


def _shape(reader: Any, tensor: Any) -> tuple[int, ...]:
    """Shape in PyTorch's order of axes; GGUF's is the reverse."""
    own = tuple(int(size) for size in reversed(tensor.shape))
    field = reader.get_field(SHAPE_KEY + tensor.name)
    noted = tuple(int(size) for size in field.contents()) if field is not None else own
    if math.prod(noted) != math.prod(own):
        raise ValueError(f"{tensor.name} has shape {list(own)}, but is noted as {list(noted)}")
    return noted


def _check_types(path: Path, types: set[Any]) -> None:
    from gguf import GGML_QUANT_SIZES, quants

    for kind in types:
        probe = np.zeros((1, GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
        try:
            if kind.name not in ("F32", "F16", "BF16"):
                quants.dequantize(probe, kind)
        except NotImplementedError as error:
            raise CheckpointError(
                f"{path} holds {kind.name} tensors, which the installed gguf package cannot unpack. "
                "Use a Q8_0, Q6_K, Q5_K or Q4_K file, or update the package: pip install -U gguf"
            ) from error


def _unpack(file: Path, tensor: Any) -> Tensor:
    mapped = tensor.data
    # Read, not mapped: of a mapped file all that was unpacked would stay in memory beside what came out.
    data = np.fromfile(file, dtype=mapped.dtype, count=mapped.size, offset=tensor.data_offset).reshape(mapped.shape)
    kind = tensor.tensor_type.name
    if kind in ("F32", "F16"):
        return torch.from_numpy(data)
    if kind == "BF16":
        return torch.from_numpy(data).view(torch.bfloat16)
    from gguf import quants

    return torch.from_numpy(quants.dequantize(data, tensor.tensor_type))
