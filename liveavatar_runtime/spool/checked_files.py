"""Tensor files that are either whole or not there: written beside, synced, renamed; checked when read.

They are safetensors files, read and written by Python's own calls: a file that is mapped can be neither replaced nor
removed on Windows, and where the disk fails a mapped file ends the process.
"""

import errno
import io
import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..dit.fp8 import FP8
from ..fingerprint import Fingerprint, byte_chunks

CHECKSUM = "sha256"
UNFINISHED = ".*.tmp"
"""Names of files that a crash left half-written."""
PIECE = 2**20
"""Values that are looked at together."""

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.uint8: "U8",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


class DamagedFile(Exception):
    """A file's content is not what was written, or is something else than what is asked for."""


class NotFinite(Exception):
    """Values that are not numbers (NaN or infinite) were to be kept."""


def check_finite(tensors: Iterable[Tensor]) -> None:
    """Raises NotFinite unless all values are numbers; uint8 is read as the bits of float8_e4m3fn (`dit.fp8`).

    Takes no memory worth mentioning: states are as large as the caches.
    """
    for tensor in tensors:
        for piece in tensor.detach().reshape(-1).split(PIECE):
            bits = piece.view(FP8) if piece.dtype == torch.uint8 else piece
            # Not numbers are passed on by minimum and maximum, and an infinite value is one of them.
            values = bits.float() if bits.dtype == FP8 else bits
            if values.numel() and not all(end.isfinite() for end in values.aminmax()):
                raise NotFinite


def checksum(tensors: Mapping[str, Tensor], what: Mapping[str, Any]) -> str:
    """Over what the file is, and names, dtypes, shapes and contents."""
    fingerprint = Fingerprint().add("what", dict(what))
    for name in sorted(tensors):
        fingerprint.add(name, tensors[name])
    return fingerprint.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], what: Mapping[str, Any]) -> None:
    """Write a safetensors file so that a crash at any moment leaves the old state or the new one.

    It can only be read as `what` it is, so neither renamed nor under another video. The folder must exist. Raises
    NotFinite before anything is written, and OSError, with nothing left behind, when the disk is full or refuses.
    """
    check_finite(tensors.values())
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    header = _header(whole, checksum(whole, what))
    # Hidden and without the suffix of a finished file, so that nobody takes it for one.
    temporary = path.with_name(f".{path.name}.tmp")
    replace_file(path, temporary, [len(header).to_bytes(8, "little"), header], whole.values())


def replace_file(path: Path, temporary: Path, head: Iterable[bytes], tensors: Iterable[Tensor] = ()) -> None:
    """Write a file beside `path`, bring it to the disk and put it in its place; OSError with nothing left behind."""
    try:
        with temporary.open("wb") as file:
            file.writelines(head)
            for tensor in tensors:
                for part in byte_chunks(tensor):
                    file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def written_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Size of the file that `write_tensors` makes."""
    return 8 + len(_header(tensors, "0" * 64)) + sum(tensor.nbytes for tensor in tensors.values())


def _header(tensors: Mapping[str, Tensor], checked: str) -> bytes:
    header: dict[str, Any] = {"__metadata__": {CHECKSUM: checked}}
    start = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, start + tensor.nbytes],
        }
        start += tensor.nbytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    # Tensors begin at a multiple of 8 bytes, as the format asks for.
    return encoded + b" " * (-len(encoded) % 8)


def clear_unfinished(folder: Path) -> None:
    """Remove what a crash of `write_tensors` left behind; nobody may be writing in the folder."""
    for leftover in folder.glob(UNFINISHED):
        remove_path(leftover)


def remove_path(path: Path) -> None:
    """Remove a file, a link or a whole folder, if it is there; OSError when the system refuses."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_tensors(path: Path, what: Mapping[str, Any]) -> dict[str, Tensor]:
    """What `write_tensors` wrote as `what`, in memory of its own; the file is closed.

    Raises DamagedFile when it is something else, FileNotFoundError when there is none, OSError when the system refuses
    to read it.
    """
    if path.exists() and not path.is_file():
        raise DamagedFile(f"{path} is no file")
    try:
        with path.open("rb") as file:
            expected, tensors = _read(file)
    except OSError as error:
        if error.errno == errno.EIO:
            raise DamagedFile(f"{path} is not readable ({error})") from error
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        # All that a header can be instead of what is looked for in it.
        raise DamagedFile(f"{path} is no such file ({error})") from error
    if checksum(tensors, what) != expected:
        raise DamagedFile(f"{path} is not what was written there as {dict(what)}")
    return tensors


def _read(file: io.BufferedReader) -> tuple[str, dict[str, Tensor]]:
    """Checksum and tensors; nothing is taken from memory that the file has no bytes for."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if length > size - 8:
        raise ValueError("its header is cut off")
    header = json.loads(file.read(length))
    expected = header.pop("__metadata__")[CHECKSUM]
    tensors, position = {}, 8 + length
    for name, entry in header.items():
        shape, dtype = entry["shape"], _DTYPES[entry["dtype"]]
        count = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or position + count > size:
            raise ValueError("it is cut off")
        tensors[name] = _read_tensor(file, count).view(dtype).reshape(shape)
        position += count
    return expected, tensors


def _read_tensor(file: io.BufferedReader, count: int) -> Tensor:
    """The next `count` bytes, uint8."""
    stored = torch.empty(count, dtype=torch.uint8)
    buffer: Any = stored.numpy()
    rest = memoryview(buffer)
    while rest:
        got = file.readinto(rest)
        if not got:
            raise ValueError("it is cut off")
        rest = rest[got:]
    return stored


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk; Windows does that by itself."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
