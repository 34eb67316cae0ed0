"""What a GGUF file says about its tensors, read step by step and compared with what the file can hold.

The gguf package's own reader maps the file for as long as a tensor lives, and builds a list of every array, of whatever
length a file claims.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import CheckpointError
from ..reading import AGAIN, readable, regular_file

MAGIC = b"GGUF"
VERSIONS = (2, 3)
# GGUF has four axes; converters store the weights of 3D convolutions flat and note their shape under this key.
SHAPE_KEY = "comfy.gguf.orig_shape."
ALIGNMENT_KEY = "general.alignment"
LONGEST_TEXT = 16 * 2**20
MOST_TEXTS = 2**21
"""Texts in an array; the largest vocabularies have an eighth of it."""
MOST_AXES = 8

# Numbers of the format's types of values: fixed ones as struct writes them, then text and array.
_FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9


@dataclass(frozen=True)
class Stored:
    """One tensor: `size` bytes at byte `offset` of the file, of the gguf package's type `kind`; PyTorch's `shape`."""

    kind: Any
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True)
class GgufHeader:
    """Tensors by name, and those of the metadata that are texts; `shapes` as converters noted them."""

    tensors: dict[str, Stored]
    texts: dict[str, str]
    shapes: dict[str, tuple[int, ...]]


def read_gguf_header(path: Path) -> GgufHeader:
    """Raises CheckpointError for another format, for a damaged file, and for one that says more than it can hold."""
    with readable(path):
        size = regular_file(path).stat().st_size
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise CheckpointError(f"{path} does not start as a GGUF file does. {AGAIN}")
            return _read(_Fields(file, size))


class _Fields:
    """The values of a file of `size` bytes, one after the other. Raises ValueError where it ends too early."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self.size = file, size

    @property
    def place(self) -> int:
        return self._file.tell()

    def bytes(self, count: int) -> bytes:
        self._check(count)
        return self._file.read(count)

    def skip(self, count: int) -> None:
        self._check(count)
        self._file.seek(count, 1)

    def number(self, kind: str) -> Any:
        return struct.unpack(f"<{kind}", self.bytes(struct.calcsize(f"<{kind}")))[0]

    def text(self) -> str:
        count = self.number("Q")
        if count > LONGEST_TEXT:
            raise ValueError(f"a text of {count:,} bytes is in its metadata; none of a model is so long")
        return self.bytes(count).decode("utf-8")

    def _check(self, count: int) -> None:
        if count > self.size - self.place:
            raise ValueError(f"the file ends after {self.size:,} bytes, {count:,} more are needed at {self.place:,}")


def _read(fields: _Fields) -> GgufHeader:
    version, tensors, entries = fields.number("I"), fields.number("Q"), fields.number("Q")
    if version not in VERSIONS:
        raise ValueError(f"it is of version {version}; only {', '.join(map(str, VERSIONS))} (little-endian) are read")
    # Each entry takes 12 bytes or more, each tensor 24.
    if 12 * entries + 24 * tensors > fields.size:
        raise ValueError(
            f"{entries:,} entries and {tensors:,} tensors are more than {fields.size:,} bytes can describe"
        )
    values: dict[str, Any] = {}
    for _ in range(entries):
        name = fields.text()
        if name in values:
            raise ValueError(f"the key {name!r} is there twice")
        values[name] = _value(fields, fields.number("I"), name.startswith(SHAPE_KEY))
    infos = [_info(fields) for _ in range(tensors)]
    stored = dict(_placed(fields, infos, values.get(ALIGNMENT_KEY, 32)))
    if len(stored) < len(infos):
        raise ValueError("two tensors have one name")
    shapes = {name: _shape(name, tensor.shape, values.get(SHAPE_KEY + name)) for name, tensor in stored.items()}
    return GgufHeader(stored, {name: value for name, value in values.items() if isinstance(value, str)}, shapes)


def _value(fields: _Fields, kind: int, kept: bool) -> Any:
    """A value of the metadata; None for arrays, except those that are `kept`."""
    if kind == _TEXT:
        return fields.text()
    if kind in _FIXED:
        return fields.number(_FIXED[kind])
    if kind != _ARRAY:
        raise ValueError(f"its metadata has a value of the unknown type {kind}")
    item, count = fields.number("I"), fields.number("Q")
    if item in _FIXED and not (kept and count <= MOST_AXES):
        fields.skip(count * struct.calcsize(f"<{_FIXED[item]}"))
        return None
    if item in _FIXED:
        return [fields.number(_FIXED[item]) for _ in range(count)]
    if item != _TEXT or count > MOST_TEXTS:
        raise ValueError(f"its metadata has an array of {count:,} values of type {item}, which no model has")
    for _ in range(count):
        fields.skip(fields.number("Q"))
    return None


def _info(fields: _Fields) -> tuple[str, Any, tuple[int, ...], int]:
    """Name, type, shape (GGUF's order of axes) and place of a tensor."""
    from gguf import GGMLQuantizationType

    name, axes = fields.text(), fields.number("I")
    if axes > MOST_AXES:
        raise ValueError(f"{name!r} has {axes:,} axes")
    shape = tuple(fields.number("Q") for _ in range(axes))
    kind = fields.number("I")
    if kind not in set(GGMLQuantizationType):
        raise ValueError(f"{name!r} is of type {kind}, which the installed gguf package does not know")
    return name, GGMLQuantizationType(kind), shape, fields.number("Q")


def _placed(
    fields: _Fields, infos: list[tuple[str, Any, tuple[int, ...], int]], alignment: Any
) -> Iterator[tuple[str, Stored]]:
    """Name and place in the file of each tensor; the data starts at the next multiple of `alignment`."""
    from gguf import GGML_QUANT_SIZES

    if type(alignment) is not int or not 0 < alignment <= 2**20:
        raise ValueError(f"{ALIGNMENT_KEY} is {alignment!r}")
    start = -(-fields.place // alignment) * alignment
    for name, kind, shape, offset in infos:
        block, length = GGML_QUANT_SIZES[kind]
        values = math.prod(shape)
        if values % block or (shape and shape[0] % block):
            raise ValueError(f"{name!r} is {list(shape)}, but {kind.name} stores {block} values together")
        size = values // block * length
        if offset % alignment or start + offset + size > fields.size:
            raise ValueError(f"{name!r} takes {size:,} bytes at {start + offset:,}; the file has {fields.size:,}")
        yield name, Stored(kind, tuple(reversed(shape)), start + offset, size)


def _shape(name: str, own: tuple[int, ...], noted: Any) -> tuple[int, ...]:
    if noted is None:
        return own
    shape = tuple(noted) if isinstance(noted, list) else ()
    if not all(type(side) is int and side >= 0 for side in shape) or math.prod(shape) != math.prod(own):
        raise ValueError(f"{name} has shape {list(own)}, but is noted as {noted!r}")
    return shape
