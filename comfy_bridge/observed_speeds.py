"""How long blocks took on this machine, kept in ComfyUI's user folder: a small file for each way of sampling."""

import hashlib
import logging
import os
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

from liveavatar_runtime.errors import InputError, handled, on_failure
from liveavatar_runtime.planning.observed import ObservedSpeed, ObservedSpeeds, SpeedKey

from .folders import user_file

log = logging.getLogger(__name__)

FOLDER = "__liveavatar_speeds"
MOST_RECORDS = 256
LARGEST_RECORD = 2**14
LEFT_SECONDS = 600
"""Nobody is writing a half-written record of this age any more."""


def speeds_folder() -> Path:
    return user_file(FOLDER)


def record(speed: ObservedSpeed, folder: Path | None = None) -> None:
    """Keep what a run was like, unless what is kept of the same way tells more.

    Another ComfyUI may do the same at the same time: a record is whole or not there. One that cannot be kept is told in
    the log and harms nothing.
    """
    place = speeds_folder() if folder is None else folder
    path = place / _file_name(speed.key)
    if speed.replaces(_read(path)):
        # A full disk, or Windows while another program reads the file.
        with handled(OSError, partial(log.info, "%s was not kept: %s", path)):
            _write(path, speed.to_json())
            _remove_oldest(place)


def observed(folder: Path | None = None) -> ObservedSpeeds:
    """All records that can be read; a damaged one is left out, with a line in the log."""
    place = speeds_folder() if folder is None else folder
    found = map(_read, sorted(place.glob("*.json"), key=_age)[-MOST_RECORDS:])
    return ObservedSpeeds.of(speed for speed in found if speed is not None)


def _file_name(key: SpeedKey) -> str:
    return hashlib.sha256(repr(sorted(asdict(key).items())).encode()).hexdigest()[:32] + ".json"


def _age(path: Path) -> int:
    """When a file was written; 0 where it is gone."""
    with suppress(OSError):
        return path.stat().st_mtime_ns
    return 0


def _read(path: Path) -> ObservedSpeed | None:
    told = partial(log.warning, "%s is left out: %s", path)
    with handled((OSError, InputError), told), suppress(FileNotFoundError), path.open("rb") as file:
        return ObservedSpeed.from_json(file.read(LARGEST_RECORD))
    return None


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    with on_failure(partial(Path(temporary).unlink, missing_ok=True)):
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)


def _remove_oldest(folder: Path) -> None:
    """Also what a crash left half-written. Another ComfyUI may remove the same ones at the same time."""
    for left in folder.glob(".*.tmp"):
        if _age(left) / 1e9 < time.time() - LEFT_SECONDS:
            with suppress(OSError):
                left.unlink()
    for path in sorted(folder.glob("*.json"), key=_age)[:-MOST_RECORDS]:
        with suppress(OSError):
            path.unlink()
