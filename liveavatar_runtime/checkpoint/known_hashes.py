"""What was found out about weight files by reading all of them, remembered so that each is read once.

An entry is found by path, size and times of its files. None of these is in the hash: a copy has the same one, after it
has been read too.
"""

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import handled, on_failure

log = logging.getLogger(__name__)

VERSION = 1
"""Raised when the same files are to give other results."""
RACY_SECONDS = 2.0
"""A file that was changed so shortly ago can be changed again with the same time: FAT counts in steps of this size."""
MOST_ENTRIES = 512
LEFT_SECONDS = 600
"""Nobody is writing a half-written entry of this age any more."""
LARGEST_ENTRY = 2**16


@dataclass(frozen=True)
class Hashed:
    """Hash of what files hold, and what of it is not a number: `[name, broken, count]` of the first tensors with NaN or
    infinite values, and how many of such tensors there are."""

    digest: str
    broken: tuple[tuple[str, int, int], ...] = ()
    broken_tensors: int = 0


class KnownHashes:
    """Entries are files of a folder that servers may share; without a folder nothing is remembered.

    An entry that is damaged, or cannot be read or written, counts as none.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def of(self, what: Any, files: Iterable[Path], compute: Callable[[], Hashed]) -> Hashed:
        """The result of `compute`, a function of `what` (JSON) and of the content of the files alone."""
        paths, start = [file.resolve() for file in files], time.time()
        before = _states(paths)
        entry = None if self._folder is None else self._folder / f"{_sha256([VERSION, what, before])}.json"
        known = None if entry is None else _read(entry)
        if known is not None:
            return known
        found = compute()
        settled = all(modified / 1e9 <= start - RACY_SECONDS for _, _, modified, _ in before)
        if entry is not None and settled and _states(paths) == before:
            _write(entry, found)
        return found


def _states(paths: Iterable[Path]) -> list[tuple[str, int, int, int]]:
    """Path, bytes, and when it was changed. The last time is one that no program sets: that of a repaired file differs,
    even if it was copied with the size and the time of the damaged one."""
    stats = [(str(path), path.stat()) for path in paths]
    return [(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in stats]


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _read(entry: Path) -> Hashed | None:
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        with entry.open("rb") as file:
            content = json.loads(file.read(LARGEST_ENTRY))
        result = content["result"]
        if content["check"] == _sha256(result):
            return Hashed(result["digest"], tuple((n, b, c) for n, b, c in result["broken"]), result["broken_tensors"])
    return None


def _write(entry: Path, found: Hashed) -> None:
    result = asdict(found)
    text = json.dumps({"check": _sha256(result), "result": result})
    # A full disk, or Windows while another server reads the entry: then the file is read once more.
    with handled(OSError, partial(log.debug, "%s was not remembered: %s", entry)):
        entry.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=entry.parent, prefix=".", suffix=".tmp")
        with on_failure(partial(Path(temporary).unlink, missing_ok=True)):
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(temporary, entry)
        _remove_oldest(entry.parent)


def _remove_oldest(folder: Path) -> None:
    """Also what a crash left half-written. Another server may remove the same ones at the same time."""
    ages = []
    for file in folder.iterdir():
        with suppress(OSError):
            age = file.stat().st_mtime_ns
            if file.suffix == ".tmp" and age / 1e9 < time.time() - LEFT_SECONDS:
                file.unlink()
            else:
                ages.append((age, file))
    for _, file in sorted(ages)[: max(0, len(ages) - MOST_ENTRIES)]:
        with suppress(OSError):
            file.unlink()
