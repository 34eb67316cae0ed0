"""The header of a safetensors file: read, and compared with the file, before anything believes it."""

import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..reading import AGAIN, LARGEST_JSON, parse_json, readable, regular_file

TEXTS = "__metadata__"
MOST_AXES = 64
SAFETENSORS_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": getattr(torch, "float8_e8m0fnu", None),
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
# First bytes of what people most often have under a .safetensors name, and what it is.
FOREIGN_STARTS = (
    (b"GGUF", "a GGUF file; rename it to .gguf"),
    (b"PK\x03\x04", "a PyTorch or zip archive; rename it to .pth if it holds weights"),
    (b"\x80", "a Python pickle; rename it to .pth if it holds weights"),
    (b"version https://git-lfs", "a git-lfs pointer; fetch the real file with `git lfs pull`"),
    (b"<", "a web page, saved instead of the file it links to"),
)


@dataclass(frozen=True)
class Entry:
    """One tensor: its bytes are [start, end) of what follows the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """`entries` by name, `texts` of the file's author, and the byte of the file at which the tensors start."""

    entries: dict[str, Entry]
    start: int
    texts: dict[str, str] = field(default_factory=dict)


def read_header(path: Path, complete: bool = True) -> Header:
    """Of a safetensors file; without `complete`, what follows the header may be missing.

    Raises CheckpointError for another format, saying which, for a truncated file, and for a header that does not
    describe what the file holds.
    """
    with readable(path):
        size = regular_file(path).stat().st_size
        with path.open("rb") as file:
            start = file.read(32)
            length = _length(path, start, size)
            file.seek(8)
            content = parse_json(file.read(length))
        if not isinstance(content, dict):
            raise ValueError(f"its header is a JSON {type(content).__name__}, not an object")
        texts = content.pop(TEXTS, None) or {}
        if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
            raise ValueError(f"{TEXTS} in its header is no table of texts")
        header = Header({name: _entry(name, said) for name, said in content.items()}, 8 + length, texts)
    if complete:
        _check_places(path, header, size)
    return header


def _length(path: Path, start: bytes, size: int) -> int:
    """Bytes of the header, told by the first ones of a file of `size` bytes."""
    for magic, what in FOREIGN_STARTS:
        if start.startswith(magic) and start[8:9] != b"{":
            raise CheckpointError(f"{path} is not a safetensors file but {what}")
    length = struct.unpack("<Q", start[:8])[0] if size > 8 else 0
    if start[8:9] != b"{" or length > LARGEST_JSON:
        raise CheckpointError(f"{path} ({size:,} bytes) does not start as a safetensors file does. {AGAIN}")
    if size < 8 + length:
        raise CheckpointError(f"{path} is truncated: it ends after {size:,} bytes, inside its header. {AGAIN}")
    return length


def _entry(name: str, said: Any) -> Entry:
    """Raises ValueError for one that describes no tensor."""
    if not isinstance(said, dict) or not {"dtype", "shape", "data_offsets"} <= said.keys():
        raise ValueError(f"the header gives dtype, shape and data_offsets of {name!r} not all three")
    kind, shape, offsets = said["dtype"], said["shape"], said["data_offsets"]
    dtype = SAFETENSORS_DTYPES.get(kind) if isinstance(kind, str) else None
    if dtype is None:
        raise ValueError(f"{name!r} is of the type {kind!r}; known are {', '.join(SAFETENSORS_DTYPES)}")
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{name!r} has shape {shape!r} at {offsets!r}, which are no sizes and no place in a file")
    needed = math.prod(shape) * dtype.itemsize
    if offsets[1] - offsets[0] != needed:
        raise ValueError(f"{name!r} takes {needed:,} bytes, but its place has {offsets[1] - offsets[0]:,}")
    return Entry(dtype, tuple(shape), *offsets)


def _counts(values: Any) -> bool:
    """Whether these are sizes or places: a list of few whole numbers that PyTorch can hold."""
    whole = isinstance(values, list) and len(values) <= MOST_AXES
    return whole and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _check_places(path: Path, header: Header, size: int) -> None:
    """The tensors must follow each other and fill the file, as everything that writes safetensors leaves them."""
    end = 0
    for name, entry in sorted(header.entries.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != end:
            where = "overlaps" if entry.start < end else "does not follow"
            raise CheckpointError(f"{path} cannot be read as weights: {name!r} {where} the tensor before it. {AGAIN}")
        end = entry.end
    needed = header.start + end
    if size < needed:
        raise CheckpointError(f"{path} is truncated: it has {size:,} bytes, its header describes {needed:,}. {AGAIN}")
    if size > needed:
        raise CheckpointError(f"{path} has {size:,} bytes, {size - needed:,} more than its header describes. {AGAIN}")
