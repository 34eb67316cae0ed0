"""The library between this process and the C library that makes file-system calls fail (`shim.c`)."""

import ctypes
import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
PROJECT = re.compile(r"/(liveavatar_runtime|comfy_bridge|nodes|benchmarks/faults)/(.+)\.py$")
RANDOM = re.compile(
    r"(?<=/liveavatar-spool-)\w+|(?<=/liveavatar-features-)\w+|(?<=/liveavatar-)[a-z0-9_]{8}\b|(?<=/\.tmp)\w+"
    r"|(?<=/tmp)[a-z0-9_]{8}(?=\.)|(?<=/)[0-9a-f]{20,}"
)
"""Parts of names that are drawn by chance, and keys of videos."""

# As in shim.c.
COUNT, FAIL, FULL, GONE, KILL, TORN, SHORT, POWER = range(8)
MODES = ("count", "fail", "full disk", "disk gone", "kill", "torn write", "short write", "power loss")
CHANGES, SPACE, WRITES, READS = 1, 2, 4, 8

ERRORS: dict[str, tuple[int, ...]] = {
    "open": (errno.EACCES, errno.EIO, errno.EMFILE),
    "opendir": (errno.EACCES, errno.EIO),
    "read": (errno.EIO,),
    "write": (errno.ENOSPC, errno.EIO),
    "fsync": (errno.EIO, errno.ENOSPC),
    "fdatasync": (errno.EIO, errno.ENOSPC),
    "close": (errno.EIO,),
    "rename": (errno.EACCES, errno.ENOSPC),
    "link": (errno.EPERM,),
    "symlink": (errno.EPERM,),
    "unlink": (errno.EACCES, errno.EIO),
    "rmdir": (errno.EACCES,),
    "mkdir": (errno.ENOSPC, errno.EACCES),
    "ftruncate": (errno.ENOSPC, errno.EIO),
    "truncate": (errno.EIO,),
    "fallocate": (errno.ENOSPC,),
    "mmap": (errno.ENOMEM,),
    "flock": (errno.ENOLCK, errno.EIO),
    "utime": (errno.EACCES, errno.EROFS),
    "chmod": (errno.EPERM,),
    "end": (),
}
"""What each kind of call may give on a sick disk, a full one, or one that forbids it."""


class NoCompiler(Exception):
    """There is no C compiler for the shim, or this system is not Linux."""


def build_shim(folder: Path) -> Path:
    """Compile the shim into a folder. Raises NoCompiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not sys.platform.startswith("linux") or compiler is None:
        raise NoCompiler("the shim for file-system calls needs Linux and a C compiler (cc, gcc or clang)")
    library = folder / "faults.so"
    command = [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", str(SOURCE), "-o", str(library), "-ldl"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return library


@dataclass(frozen=True)
class Site:
    """A call site: the function, what kind of file it is about, and who called it, innermost last."""

    function: str
    file: str
    caller: str

    def __str__(self) -> str:
        return f"{self.function} {self.file} ({self.caller})"


@dataclass(frozen=True)
class Call:
    """A call that was made; `kinds`: bits of CHANGES, SPACE, WRITES, READS."""

    number: int
    site: Site
    kinds: int


class Shim:
    """The loaded shim. `root`: the folder whose calls count."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._library = ctypes.CDLL(None)
        if not hasattr(self._library, "fault_arm"):
            raise NoCompiler("start this process with LD_PRELOAD set to what build_shim made")
        self._library.fault_watch(os.fsencode(root))

    @contextmanager
    def armed(self, mode: int, number: int, error: int, on_call: Callable[[Call], None]) -> Iterator[None]:
        """Inside, the n-th call is treated as told; `on_call` hears of every one before it is made."""

        @ctypes.CFUNCTYPE(None, ctypes.c_long, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int)
        def heard(number: int, function: bytes, path: bytes, kinds: int) -> None:
            site = Site(function.decode(), file_kind(os.fsdecode(path), self.root), caller())
            on_call(Call(number, site, kinds))

        self._library.fault_tell(heard)
        self._library.fault_arm(mode, ctypes.c_long(number), error)
        try:
            yield
        finally:
            self._library.fault_disarm()
            self._library.fault_tell(None)

    def end(self) -> None:
        """The end of a run counts as a call: the power may fail right after it."""
        self._library.fault_end()


def caller(depth: int = 3) -> str:
    """The innermost functions of the project on this thread's stack."""
    frame, names = sys._getframe(2), []
    while frame is not None and len(names) < depth:
        found = PROJECT.search(frame.f_code.co_filename)
        if found and "/shim" not in found[0]:
            names.append(f"{Path(found[2]).name}:{frame.f_code.co_name}")
        frame = frame.f_back
    return " < ".join(names)


def file_kind(path: str, root: Path) -> str:
    """A path below the root without what differs from run to run."""
    text = re.sub(rf"{re.escape(str(root))}(/[^/ ]+)?", "", path)
    return re.sub(r"\d+", "N", RANDOM.sub("*", text)) or "/"
