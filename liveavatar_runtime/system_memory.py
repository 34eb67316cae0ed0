"""System memory while weights are loaded: how much there is, and what to say when it is too little."""

import errno
import os
from pathlib import Path

import psutil

from .texts import size_text

WINDOWS_SHORTAGES = (8, 14, 1455)
"""Not enough memory (two codes), and "the paging file is too small"."""
# What libraries write that do not pass the system's error on as such: safetensors, PyTorch, NumPy.
SHORTAGE_WORDS = (
    "cannot allocate memory",
    "can't allocate memory",
    "not enough memory",
    "unable to allocate",
    "paging file is too small",
    "os error 12)",
    "os error 1455)",
    "error code: <1455>",
)
CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)
"""Files with the limit of a container and what it uses of that, of both versions of Linux's control groups."""

SMALLER_FILES = (
    "What helps: an fp8 file such as wan2.2_s2v_14B_fp8_scaled.safetensors (half the size), the official folder with "
    "its smaller files, closing other programs, or a larger swap or paging file."
)


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that memory, or room for a memory map, is missing. The file it came from may be good."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and (
        error.errno == errno.ENOMEM or getattr(error, "winerror", None) in WINDOWS_SHORTAGES
    ):
        return True
    text = str(error).lower()
    return any(words in text for words in SHORTAGE_WORDS)


def available_memory() -> int:
    """Bytes of system memory that this process can still take without swapping, within its limits."""
    free = [psutil.virtual_memory().available]
    for limit, used in CGROUPS:
        if limit.is_file() and limit.read_text(encoding="utf-8").strip().isdigit():
            free.append(int(limit.read_text(encoding="utf-8")) - int(used.read_text(encoding="utf-8")))
    if os.name == "posix":
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            free.append(limit - psutil.Process().memory_info().vms)
    return max(0, min(free))


def stay_on_disk(path: Path, size: int) -> str:
    """A sentence for weights of `size` bytes that memory has no room for."""
    return (
        f"{path.name}: the weights take {size_text(size)}, and {size_text(available_memory())} of memory are "
        f"available. They stay on the disk and are read whenever they are used, which is slow. {SMALLER_FILES}"
    )


def too_little(path: Path, needed: str) -> str:
    """A sentence for a file whose weights do not fit; `needed` says what would need how much."""
    total = psutil.virtual_memory().total
    return (
        f"{path}: not enough memory. {needed}, and this computer has {size_text(total)} of memory, of which "
        f"{size_text(available_memory())} are available. {SMALLER_FILES}"
    )
