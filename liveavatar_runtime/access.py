"""Why the system does not give a file that may be good: told from the error that came instead of it."""

import errno
import os
import re

_CODES = re.compile(r"\(os error (\d+)\)|error code: <(\d+)>|: [A-Z][\w' /-]+ \((\d+)\)$")
"""As safetensors, and PyTorch on Windows and elsewhere, write the system's code into their texts."""

# (what to say, codes of POSIX systems by name, codes of Windows); names, because no system has all of them.
_KINDS: tuple[tuple[str, tuple[str, ...], tuple[int, ...]], ...] = (
    (
        "the system does not allow it ({reason}). Give the user who runs ComfyUI the right to read this file, or copy "
        "it to a folder of that user. The file itself may be good.",
        ("EACCES", "EPERM"),
        (5, 1314),
    ),
    (
        "another program has it open for itself ({reason}). Wait until a download, copy or virus scan of it is over, "
        "or close that program, and run again. The file itself may be good.",
        ("EBUSY", "EDEADLK", "EAGAIN"),
        (32, 33, 170),
    ),
    (
        "it was there a moment ago and is gone ({reason}): moved, replaced, or on a disk that was taken away. Put it "
        "back and run again.",
        ("ENOENT", "ENOTDIR", "ESTALE"),
        (2, 3),
    ),
    (
        "its disk or network share failed while it was read ({reason}). Look at the disk's cable, health and "
        "connection, or copy the file to another disk, and run again. The file itself may be good.",
        ("EIO", "ENXIO", "ENODEV", "EREMOTEIO", "ENETDOWN", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH", "ETIMEDOUT",
         "ENOTCONN", "ECONNRESET", "ECONNABORTED"),
        (15, 21, 23, 31, 53, 55, 59, 64, 121, 483, 1117, 1167, 1231, 1236),
    ),
    (
        "this process has too many files open ({reason}). Restart ComfyUI, or raise its limit (ulimit -n).",
        ("EMFILE", "ENFILE"),
        (4,),
    ),
)  # fmt: skip


def why_unreadable(error: BaseException) -> str | None:
    """A sentence for the user about what the system said; None when it said nothing, so that the content is wrong."""
    windows, posix = _codes(error)
    for text, names, codes in _KINDS:
        if posix in [getattr(errno, name, -1) for name in names] or windows in codes:
            reason = os.strerror(posix) if posix else str(error).splitlines()[0]
            return text.format(reason=reason)
    return None


def _codes(error: BaseException) -> tuple[int | None, int | None]:
    """The code of Windows and that of POSIX in an error; at most one of them."""
    found = getattr(error, "winerror", None)
    if found:
        return found, None
    if isinstance(error, OSError) and error.errno:
        return None, error.errno
    named = {FileNotFoundError: errno.ENOENT, PermissionError: errno.EACCES}.get(type(error))
    if named:
        return None, named
    # Only what libraries raise: a name in a file could read like this too.
    written = _CODES.search(str(error)) if isinstance(error, OSError | RuntimeError) or _is_rust(error) else None
    code = int(next(group for group in written.groups() if group)) if written else None
    return (code, None) if os.name == "nt" else (None, code)


def _is_rust(error: BaseException) -> bool:
    return type(error).__name__ == "SafetensorError"
