"""All spools of an installation: a folder of videos by key, kept within a budget."""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import MachineError
from .spool import ABOUT, Spool

MARGIN_BYTES = 2**28
"""Room that is left on the disk for everything else."""


@dataclass(frozen=True)
class SpoolInfo:
    """One spool: its finished clips, bytes on the disk, time of last use (seconds since 1970), and what it is."""

    key: str
    clips: int
    size: int
    used: float
    about: dict[str, Any]

    def __str__(self) -> str:
        facts = ", ".join(f"{name} {value}" for name, value in self.about.items())
        return (
            f"{self.key[:8]}: {self.clips} clips, {gib(self.size)}, used {_ago(time.time() - self.used)} ago; {facts}"
        )


@dataclass(frozen=True)
class SpoolStore:
    """Spools in subfolders of `root`; it need not exist yet."""

    root: Path

    def open(self, key: str, about: Mapping[str, Any]) -> Spool:
        """The spool of a video; nothing is made on the disk before it is written to."""
        return Spool(self.root / key, about)

    def spools(self) -> list[SpoolInfo]:
        """All of them, last used first."""
        folders = [path.parent for path in self.root.glob(f"*/{ABOUT}")] if self.root.is_dir() else []
        return sorted((self._info(folder) for folder in folders), key=lambda info: -info.used)

    def clear(self, older_than: float = 0.0) -> list[SpoolInfo]:
        """Remove the spools that were not used for so many seconds, except those in use; returns what is gone."""
        now = time.time()
        return [info for info in self.spools() if now - info.used >= older_than and self._remove(info.key)]

    def make_room(self, key: str, needed: int, budget: int) -> list[SpoolInfo]:
        """Remove the longest unused spools until all, with `needed` more bytes, keep within `budget` bytes.

        The spool `key` itself and those in use stay. Returns what is gone.
        """
        spools = self.spools()
        total, gone = needed + sum(info.size for info in spools), []
        for info in reversed(spools):
            if total <= budget:
                break
            if info.key != key and self._remove(info.key):
                total -= info.size
                gone.append(info)
        return gone

    def check_disk(self, needed: int) -> None:
        """Raises MachineError when the disk has no room for `needed` more bytes."""
        existing = next(folder for folder in (self.root, *self.root.parents) if folder.exists())
        free = shutil.disk_usage(existing).free
        if needed + MARGIN_BYTES > free:
            raise MachineError(
                f"the finished clips of this video need {gib(needed)} in {self.root}, and its disk has {gib(free)} "
                "free. Make room (Finished Clips clears what older videos left), lower num_clip or make it in segments."
            )

    def _info(self, folder: Path) -> SpoolInfo:
        files = [(path.name, path.stat()) for path in folder.iterdir()]
        about = folder / ABOUT
        return SpoolInfo(
            key=folder.name,
            clips=sum(name.startswith("clip-") for name, _ in files),
            size=sum(stat.st_size for _, stat in files),
            used=about.stat().st_mtime,
            about=json.loads(about.read_text() or "{}"),
        )

    def _remove(self, key: str) -> bool:
        """False when a prompt is using it."""
        lock = FileLock(self.root / f"{key}.lock", timeout=0)
        try:
            with lock:
                shutil.rmtree(self.root / key, ignore_errors=True)
        except Timeout:
            return False
        return True


def gib(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 // 10 else f"{size / 2**20:.1f} MiB"


def _ago(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} seconds"
