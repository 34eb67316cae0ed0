"""A lock among processes, and among objects of one process, whose file is only there while somebody holds it."""

import os
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from ..errors import on_failure

if os.name == "nt":
    import msvcrt
else:
    import fcntl

TRIES = 100
PAUSE_SECONDS = 0.02
REMOVED_WHILE_OPEN = os.name != "nt"
"""Whether a file can be removed that somebody has open."""


class LockFile:
    """Held by at most one object at a time; the system frees it when its process ends.

    Removing a lock's file is a trap: another one may have opened it just before, locks what nobody else can find any
    more, and a third one makes and locks a new file, so that there are two holders. What prevents it:

    Linux, macOS: the holder removes the file *before* it lets go. So whoever gets the lock of a removed file gets it
    after that, sees that the file at this path is not the one it has open, and tries again. Only a holder removes, and
    only the file that it holds: a file that is locked and in its place stays in its place.

    Windows: a file that anyone has open cannot be removed (Python opens without FILE_SHARE_DELETE), so the holder lets
    go first and removes then. Either nobody has opened the file since, or the removal is refused and the file stays
    for whoever has; a locked file is never removed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def acquired(self) -> bool:
        """Whether this object holds it."""
        return self._descriptor is not None

    def acquire(self) -> bool:
        """False when another one holds it. Raises OSError when there can be no such file."""
        for _ in range(TRIES):
            if self._descriptor is not None:
                return True
            descriptor = self._open()
            with on_failure(partial(_close, descriptor)):
                locked = _lock(descriptor)
            if not locked:
                _close(descriptor)
                return False
            if _is_at(descriptor, self.path):
                self._descriptor = descriptor
            else:
                _close(descriptor)
        raise OSError(f"{self.path} is another file each time that it is opened")

    def release(self) -> None:
        """Let go, if it is held, and remove the file."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        if REMOVED_WHILE_OPEN:
            if _is_at(descriptor, self.path):
                _remove(self.path)
            _close(descriptor)
        else:
            _close(descriptor)
            _remove(self.path)

    def __del__(self) -> None:
        self.release()

    def _open(self) -> int:
        for remaining in reversed(range(TRIES if os.name == "nt" else 1)):
            try:
                return os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            except PermissionError:
                # On Windows a file that was removed is refused until the last one who looks at it has closed it.
                if not remaining:
                    raise
                time.sleep(PAUSE_SECONDS)
        raise AssertionError("the last try has returned or raised")


def _lock(descriptor: int) -> bool:
    """The lock of an open file, which ends when it is closed; False when another one has it."""
    # What the two systems say when another one has it.
    with suppress(BlockingIOError, PermissionError):
        if os.name == "nt":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _close(descriptor: int) -> None:
    # Where the disk is gone, the system tells so when a file is closed, and closes it; nothing was written to this one.
    with suppress(OSError):
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False


def _remove(path: Path) -> None:
    # Somebody has it open (Windows), or it is gone or cannot be removed: a lock file that stays does no harm.
    with suppress(OSError):
        path.unlink()
