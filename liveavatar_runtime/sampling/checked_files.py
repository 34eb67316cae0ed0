"""Tensor files that are either whole or not there: written beside, synced, renamed; checked when read."""

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .fingerprint import checksum

CHECKSUM = "sha256"
UNFINISHED = (".*.tmp", ".tmp*")
"""Names of files that a crash left half-written: those of `write_tensors`, and those of safetensors, which itself
writes beside its target."""


class DamagedFile(Exception):
    """A file's content is not what was written."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file so that a crash at any moment leaves the old state or the new one.

    The folder must exist. Raises OSError, with nothing left behind, when the disk is full or refuses.
    """
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    # Hidden and without the suffix of a finished file, so that nobody takes it for one.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        save_file(whole, temporary, metadata={CHECKSUM: checksum(whole)})
        sync(temporary)
        os.replace(temporary, path)
    except SafetensorError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(str(error)) from error
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def clear_unfinished(folder: Path) -> None:
    """Remove what a crash of `write_tensors` left behind; nobody may be writing in the folder."""
    for pattern in UNFINISHED:
        for leftover in folder.glob(pattern):
            leftover.unlink(missing_ok=True)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """What `write_tensors` wrote; raises DamagedFile when it is not, FileNotFoundError when there is none."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            expected = (file.metadata() or {}).get(CHECKSUM)
    except (SafetensorError, UnicodeDecodeError) as error:
        raise DamagedFile(f"{path} is not readable ({error})") from error
    if checksum(tensors) != expected:
        raise DamagedFile(f"{path} is not what was written there")
    return tensors


def sync(path: Path) -> None:
    """Bring a file's content to the disk itself."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk; Windows does that by itself."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
