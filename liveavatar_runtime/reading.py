"""Reading files that others wrote: one guard, which makes a sentence that names the file of whatever goes wrong."""

import json
import os
import re
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from .access import why_unreadable
from .errors import CheckpointError, InputError, MachineError, MemoryShortage, printable, replaced
from .system_memory import is_shortage, too_little
from .texts import size_text

AGAIN = "Download or copy the file again and compare its size with the source."
LARGEST_JSON = 16 * 2**20
MOST_TABLES = 200_000
"""JSON objects in a file; two for each of a model's tensors are far fewer. A file of nothing but brackets would become
many times its size in memory."""

_SPEAKING = (ValueError, OSError, SafetensorError)
"""Errors whose texts say what is wrong; those of others, such as a key that is missing, need their class's name."""
_ASKED = re.compile(r"allocate (\d+) bytes")


def readable(path: Path | str, what: str = "weights") -> AbstractContextManager[None]:
    """Everything that goes wrong with a foreign file in here comes out as an error that names it.

    CheckpointError for a file that is damaged, in use, out of reach or gone, each in its own words; MemoryShortage
    where the file may be good and memory is missing. Errors of ours pass; so do a device's memory errors, which
    somebody else explains.
    """

    def named(error: Exception) -> Exception:
        if isinstance(error, (MachineError, torch.cuda.OutOfMemoryError)):
            return error
        if not isinstance(error, InputError):
            return _refusal(Path(path), what, error)
        said = str(error)
        return error if printable(str(path)) in said or Path(path).name in said else type(error)(f"{path}: {error}")

    return replaced(Exception, named)


def _refusal(path: Path, what: str, error: Exception) -> CheckpointError | MemoryShortage:
    size, asked = _size(path), _ASKED.search(str(error))
    # What asks for more than the whole file could fill is not memory that is missing.
    if is_shortage(error) and (asked is None or int(asked[1]) <= size):
        return MemoryShortage(too_little(path, f"Its {size_text(size)} could not be mapped or read"))
    why = why_unreadable(error)
    if why is not None:
        return CheckpointError(f"{path} cannot be read: {why}")
    text = str(error).strip().splitlines()[0] if str(error).strip() else ""
    reason = text if text and isinstance(error, _SPEAKING) else f"{type(error).__name__} {text}".strip()
    return CheckpointError(f"{path} cannot be read as {what}: {reason}. {AGAIN}")


def regular_file(path: Path) -> Path:
    """The path, if a file is there. Raises CheckpointError for what else it can be: reading a pipe or a device may
    never end."""
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; a file must be there")
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path} is a pipe or a device, not a file; put the file itself there")
    if path.is_symlink() and not path.exists():
        raise CheckpointError(f"{path} is a link to {os.readlink(path)}, which is not there; put the file itself there")
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; give a file that does")
    return path


def first_file(folder: Path, names: Iterable[str]) -> Path | None:
    """The first of these files in a folder; None when there is nothing of these names. Raises CheckpointError, as
    `regular_file` does, when there is something, but no file: a model would be loaded without this part of it."""
    there = [folder / name for name in names if os.path.lexists(folder / name)]
    return next((path for path in there if path.is_file()), None) or (regular_file(there[0]) if there else None)


def read_bytes(path: Path, most: int, what: str) -> bytes:
    """A small file's content. Raises CheckpointError when it is no file, unreadable, empty or has more than `most`."""
    with readable(path, what):
        size = os.stat(regular_file(path)).st_size
        if not 0 < size <= most:
            raise ValueError(f"it has {size:,} bytes, where 1 to {most:,} are possible")
        with path.open("rb") as file:
            return file.read(most + 1)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; raises CheckpointError when it is something else."""
    content = read_bytes(path, LARGEST_JSON, "JSON")
    with readable(path, "JSON"):
        values = parse_json(content)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a JSON {type(values).__name__}; it must be an object. {AGAIN}")
    return values


def parse_json(text: bytes | str) -> Any:
    """The value of a JSON text that somebody else wrote.

    Raises ValueError, which says why, for what is no JSON, too deep or too large to be a description of a model, and
    for objects with a key twice, which programs read differently.
    """
    text = text.decode("utf-8") if isinstance(text, bytes) else text
    if len(text) > LARGEST_JSON or text.count("{") > MOST_TABLES or text.count("[") > 2 * MOST_TABLES:
        raise ValueError(f"a JSON text of {len(text):,} characters is too large to describe a model")
    with replaced(RecursionError, lambda error: ValueError("its JSON is nested too deeply")):
        return json.loads(text, object_pairs_hook=_table, parse_constant=_refuse_constant)


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in table if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return table


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number that JSON has")


def _size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder; 0 where they are gone."""
    with suppress(OSError, ValueError):
        return path.stat().st_size if not path.is_dir() else sum(file.stat().st_size for file in path.glob("*"))
    return 0
