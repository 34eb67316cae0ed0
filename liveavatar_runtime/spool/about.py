"""`spool.json`: what a spool is, for people, and by its time when it was last used. Nothing depends on it."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .checked_files import replace_file

NAME = "spool.json"
LARGEST = 2**16
LONGEST_VALUE = 100


def read_about(folder: Path) -> dict[str, Any] | None:
    """What is told of the spool in a folder; None when there is nothing of that kind."""
    path = folder / NAME
    # Not a pipe, which would be waited for.
    if not os.path.isfile(path):
        return None
    about = None
    with suppress(OSError, ValueError, RecursionError), path.open("rb") as file:
        about = json.loads(file.read(LARGEST))
    return about if isinstance(about, dict) and all(map(_is_fact, about, about.values())) else None


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Write it, if it is not there or not readable, as a whole. When the disk is full or refuses it is left out: the
    clips that don't fit say it better."""
    if read_about(folder) is None:
        with suppress(OSError):
            replace_file(folder / NAME, folder / f".{NAME}.tmp", [json.dumps(dict(about)).encode()])


def note_use(folder: Path, name: str = NAME) -> None:
    """Note that it was used now, where the disk can be written."""
    with suppress(OSError):
        os.utime(folder / name)


def _is_fact(name: str, value: Any) -> bool:
    """Whether it can be shown in a line."""
    text = f"{name} {value}"
    return isinstance(value, (str, int, float)) and text.isprintable() and len(text) <= LONGEST_VALUE
