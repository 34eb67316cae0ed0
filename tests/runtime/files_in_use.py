"""Windows' rules for files that are in use, on Linux: what is open or mapped is neither removed nor replaced.

On Windows the system itself keeps them, elsewhere without /proc they cannot be told.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

DESCRIPTORS, MAPS = "/proc/self/fd", "/proc/self/maps"
CAN_BE_TOLD = os.path.isdir(DESCRIPTORS)
GONE = " (deleted)"


@contextmanager
def windows_rules() -> Iterator[None]:
    """Within it the calls that remove and rename, which pathlib and shutil use too, refuse as Windows does."""
    names = ("unlink", "remove", "rename", "replace", "rmdir")
    real = {name: getattr(os, name) for name in names}
    if CAN_BE_TOLD:
        for name in names:
            setattr(os, name, _refusing(real[name], name))
    try:
        yield
    finally:
        for name in names:
            setattr(os, name, real[name])


def _refusing(call: Callable[..., None], name: str) -> Callable[..., None]:
    def checked(path: Any, *others: Any, **options: Any) -> None:
        _check(_absolute(path, options.get("dir_fd", options.get("src_dir_fd"))), name)
        if name in ("rename", "replace"):
            _check(_absolute(others[0], options.get("dst_dir_fd")), name)
            if name == "rename" and os.path.lexists(others[0]):
                raise FileExistsError(183, "[simulated] the target of a rename is there", os.fspath(others[0]))
        call(path, *others, **options)

    return checked


def _absolute(path: Any, folder: int | None) -> str:
    """The path with the links in its folders followed; a link at its end is removed itself."""
    text = os.fsdecode(path)
    if folder is not None:
        text = os.path.join(os.readlink(f"{DESCRIPTORS}/{folder}"), text)
    head, tail = os.path.split(os.path.abspath(text))
    return os.path.join(os.path.realpath(head), tail)


def _check(path: str, action: str) -> None:
    """Raises PermissionError when this process uses a file, or one in a folder that is moved."""
    for used, how in _in_use():
        if used == path or used.startswith(path + os.sep):
            raise PermissionError(13, f"[WinError 32, simulated] {action}, and {used} is {how}", path)


def _in_use() -> Iterator[tuple[str, str]]:
    """Files that this process has open or mapped."""
    for descriptor in os.listdir(DESCRIPTORS):
        link = f"{DESCRIPTORS}/{descriptor}"
        try:
            # Folders are opened to bring them to the disk and to walk through them, which is done otherwise there.
            if stat.S_ISREG(os.stat(link).st_mode):
                yield os.readlink(link), "open"
        except OSError:
            continue
    with open(MAPS) as maps:
        for line in maps:
            # Address, rights, offset, device, inode, path.
            parts = line.rstrip("\n").split(maxsplit=5)
            if len(parts) == 6 and parts[5].startswith(os.sep) and not parts[5].endswith(GONE):
                yield parts[5], "mapped"
