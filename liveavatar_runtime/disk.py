"""Errors of the system while files are read and written, in the user's words."""

import errno
import os
import tempfile
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from .errors import MachineError, reason_of, replaced

FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
TOO_MANY = (errno.EMFILE, errno.ENFILE)


def is_full(error: BaseException) -> bool:
    """Whether the system says that the disk, or a limit on it, has no more room."""
    return getattr(error, "errno", None) in FULL


def what_to_do(error: BaseException) -> str:
    """A sentence for the user."""
    number = getattr(error, "errno", None)
    if number in FULL:
        return "Free some space on the disk, then run again."
    if number in TOO_MANY:
        return "Allow ComfyUI more open files (ulimit -n), or restart it, then run again."
    if number in REFUSED:
        return "Allow ComfyUI to read and write there, then run again."
    return _in_the_way(error) or "Check that the disk works and its folder is writable, then run again."


def _in_the_way(error: BaseException) -> str:
    """What stands where a folder must be, at the error's path or on the way to it, and what to do; or ""."""
    path = getattr(error, "filename", None)
    if not isinstance(path, str) or not isinstance(error, (NotADirectoryError, FileExistsError, FileNotFoundError)):
        return ""
    with suppress(OSError, ValueError):
        for place in (Path(path), *Path(path).parents):
            if place.is_symlink() and not place.exists():
                return (
                    f"{place} is a link to {os.readlink(place)}, which is not there: bring it back or remove the link."
                )
            if place.is_file():
                return f"{place} is a file where a folder must be: move it away, then run again."
    return ""


def told(what: str, path: Path | None) -> AbstractContextManager[None]:
    """Raises MachineError in place of the system's error: "`what`: why. What to do", with the path at `{place}`.

    None stands for the system's folder for temporary files, which Python has looked for by then;
    it may have found none.
    """

    def instead(error: BaseException) -> MachineError:
        where = path or tempfile.tempdir or "the system's temporary folder"
        return MachineError(f"{what.format(place=where)}: {reason_of(error)}. {what_to_do(error)}")

    return replaced(OSError, instead)
