"""All spools of an installation: a folder of videos by key, kept within a budget."""

import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..disk import what_to_do
from ..errors import MachineError, handled, reason_of, replaced
from ..texts import fine_size
from . import about as spool_about
from .branches import BranchInfo, branches_in, files_of_alone
from .chain import BRANCH_NAME, PLAIN, Chain
from .lock_file import LockFile
from .spool import CLIP_NAME, Spool, free_bytes, is_spool_file
from .times import DAY, when

MARGIN_BYTES = 2**28
"""Room that is left on the disk for everything else."""

_KEY = re.compile(r"[0-9a-f]{32}")


def _nobody(text: str) -> None:
    """Is told."""


@dataclass(frozen=True)
class SpoolInfo:
    """One spool: its finished clips, of all branches, bytes on the disk, time of last use (seconds since 1970, 0:
    unknown), what it is, None when that is not readable, and the branches beside the video in which nothing changes."""

    key: str
    clips: int
    size: int
    used: float
    about: Mapping[str, Any] | None
    branches: int = 0

    def __str__(self) -> str:
        facts = "what it is: unknown" if self.about is None else ", ".join(f"{k} {v}" for k, v in self.about.items())
        branches = f", branches {self.branches}" if self.branches else ""
        used = when(self.used, time.time())
        return f"{self.short_key}: {self.clips} clips{branches}, {fine_size(self.size)}, used {used}; {facts}"

    @property
    def short_key(self) -> str:
        """By which it is named in lists."""
        return "".join(letter if letter.isprintable() else "?" for letter in self.key[:8])

    def unused_for(self, now: float) -> float:
        """Seconds; 0 where the clock was set back since."""
        return max(0.0, now - self.used)

    def last_use(self, now: float) -> float:
        """For the order in which they were used: a time to come is from before the clock was set back, so all that was
        used since was used later. Within a day it may be the clock of another server on the same folder."""
        return self.used if self.used <= now + DAY else 0.0


@dataclass(frozen=True)
class SpoolStore:
    """Spools in subfolders of `root`; it need not exist yet."""

    root: Path

    def open(self, key: str, about: Mapping[str, Any], budget: int = 0, chain: Chain = PLAIN) -> Spool:
        """The spool of a video; nothing is made on the disk before it is written to.

        With a `budget` it writes only what keeps all of them within so many bytes, after the longest unused have gone.
        """
        return Spool(self.root / key, about, partial(self._refusal, key, budget) if budget else lambda size: "", chain)

    def spools(self) -> list[SpoolInfo]:
        """All of them, last used first, whatever state their folders are in. Others may come and go meanwhile."""
        now = time.time()
        infos = [self._info(self.root / name) for name in self._names()]
        return sorted((info for info in infos if info), key=lambda info: -info.last_use(now))

    def clear(self, older_than: float = 0.0, refused: Callable[[str], None] = _nobody) -> list[SpoolInfo]:
        """Remove the spools that were not used for so many seconds, except those in use; returns what is gone.

        `refused` is told, a sentence for the user each, what the system does not let go.
        """
        now = time.time()
        self.remove_left_locks()
        old = [info for info in self.spools() if info.unused_for(now) >= older_than]
        return [info for info in old if self._remove(info.key, refused)]

    def branches(self, key: str) -> list[BranchInfo]:
        """Of a spool; the video in which nothing changes is the first."""
        return branches_in(self.root / key)

    def clear_only(self, name: str, refused: Callable[[str], None] = _nobody) -> list[str]:
        """Remove the videos that are called `name` in the list, or, after a slash, one branch of them, without the
        clips that another branch needs. Not what is in use. Returns what is gone; `refused` is told what is not let
        go."""
        key, slash, branch = name.partition("/")
        gone: list[str] = []
        for info in self.spools():
            if key in (info.short_key, info.key):
                done = self._remove_branch(info.key, branch, refused) if slash else self._remove(info.key, refused)
                if done:
                    gone.append(name if slash else str(info))
        return gone

    def _remove_branch(self, key: str, branch: str, refused: Callable[[str], None]) -> bool:
        folder, lock = self.root / key, LockFile(self.root / f"{key}.lock")
        with suppress(OSError):
            if not lock.acquire():
                return False
        files: list[Path] = []
        with suppress(OSError):
            files = files_of_alone(folder, branch)
        for path in files:
            with handled(
                OSError,
                lambda error: refused(f"{folder} could not be removed: {reason_of(error)}. {what_to_do(error)}"),
            ):
                path.unlink(missing_ok=True)
        lock.release()
        return bool(files) and not any(path.exists() for path in files)

    def make_room(self, key: str, needed: int, budget: int) -> list[SpoolInfo]:
        """Remove the longest unused spools until all, with `needed` more bytes, keep within `budget` bytes.

        The spool `key` itself and those in use stay; all do when `key` alone is too large. Returns what is gone.
        """
        self.remove_left_locks()
        spools, gone = self.spools(), []
        total = needed + sum(info.size for info in spools)
        if needed + sum(info.size for info in spools if info.key == key) > budget:
            return []
        for info in reversed(spools):
            if total <= budget:
                break
            if info.key != key and self._remove(info.key):
                total -= info.size
                gone.append(info)
        return gone

    def _refusal(self, key: str, budget: int, needed: int) -> str:
        """Why `needed` more bytes may not be written to the spool `key`; nothing when they may."""
        spools = self.spools()
        if needed + sum(info.size for info in spools) > budget:
            self.make_room(key, needed, budget)
            spools = self.spools()
        own = sum(info.size for info in spools if info.key == key)
        others = sum(info.size for info in spools) - own
        if needed + own + others <= budget:
            return ""
        in_use = f", {fine_size(others)} by other videos that are in use" if others else ""
        return (
            f"spool_budget is {fine_size(budget)}: {fine_size(own)} are taken by this video{in_use}, and "
            f"{fine_size(needed)} more are needed in {self.root}. What was made until now is kept: raise "
            "spool_budget in DiT Sampler (0: no limit) and queue again."
        )

    def check_disk(self, needed: int) -> None:
        """Raises MachineError when the disk has no room for `needed` more bytes."""
        free = free_bytes(self.root)
        if needed + MARGIN_BYTES > free:
            raise MachineError(
                f"the finished clips of this video need {fine_size(needed)} in {self.root}, and its disk has "
                f"{fine_size(free)} free. Make room (Finished Clips clears what older videos left), lower num_clip or "
                "make it in segments."
            )

    def _names(self) -> list[str]:
        def unreadable(error: OSError) -> MachineError:
            return MachineError(
                f"the folder of finished clips, {self.root}, cannot be read: {reason_of(error)}. {what_to_do(error)}"
            )

        with replaced(OSError, unreadable), suppress(FileNotFoundError):
            return os.listdir(self.root)
        return []

    def _info(self, folder: Path) -> SpoolInfo | None:
        """None when it is no spool, or gone."""
        files = _files_in(folder)
        if files is None or not (_KEY.fullmatch(folder.name) or any(map(is_spool_file, files))):
            return None
        about = files.get(spool_about.NAME)
        times = [stat.st_mtime for stat in ([about] if about else files.values())]
        return SpoolInfo(
            key=folder.name,
            clips=sum(bool(CLIP_NAME.fullmatch(name)) for name in files),
            size=sum(stat.st_size for stat in files.values()),
            used=max(times, default=0.0),
            about=spool_about.read_about(folder),
            branches=sum(bool(BRANCH_NAME.fullmatch(name)) for name in files),
        )

    def _remove(self, key: str, refused: Callable[[str], None] = _nobody) -> bool:
        """False when a prompt is using it, or the system refuses, which `refused` is told."""
        folder, lock = self.root / key, LockFile(self.root / f"{key}.lock")
        errors: list[BaseException] = []
        try:
            if not lock.acquire():
                return False
            if folder.is_dir() and not folder.is_symlink():
                # What is refused stays, and all else goes.
                shutil.rmtree(folder, onerror=lambda function, path, error: errors.append(error[1]))
            else:
                folder.unlink(missing_ok=True)
        except OSError as error:
            errors.append(error)
        lock.release()
        gone = not os.path.lexists(folder)
        if errors and not gone:
            refused(f"{folder} could not be removed: {reason_of(errors[0])}. {what_to_do(errors[0])}")
        return gone

    def remove_left_locks(self) -> None:
        """Remove those that nobody holds: whoever was killed while he held one has left it."""
        with suppress(MachineError):
            for name in self._names():
                lock = LockFile(self.root / name)
                if name.endswith(".lock"):
                    with suppress(OSError):
                        lock.acquire()
                    lock.release()


def _files_in(folder: Path) -> dict[str, os.stat_result] | None:
    """Name -> size and time of what is in a folder, none where that may not be seen; None when there is no folder."""
    files: dict[str, os.stat_result] = {}
    with suppress(OSError):
        with suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    files[entry.name] = entry.stat(follow_symlinks=False)
            return files
        return files if folder.is_symlink() else None
    return files
