"""Numbers and lists in the words of users."""

from collections.abc import Sequence

GIB, MIB = 2**30, 2**20

MISSING, UNEXPECTED = "{count} missing: {names}", "{count} unexpected: {names}"
OF_ANOTHER_SHAPE = "{count} of another shape: {names}"
WITHOUT_VALUES = "{count} without any values: {names}"
"""What is wrong with tensors of a file, for `listing`."""


def gib(size: float) -> str:
    """ "0.0 GiB", whatever the size."""
    return f"{size / GIB:.1f} GiB"


def size_text(size: float, digits: int = 1) -> str:
    """ "1.5 GiB", "12.3 MiB"; `digits` behind the point of GiB."""
    return f"{size / GIB:.{digits}f} GiB" if size >= GIB // 10 else f"{size / MIB:.1f} MiB"


def fine_size(size: float) -> str:
    """ "1.53 GiB", "12.3 MiB"."""
    return size_text(size, digits=2)


def rough_size(size: float) -> str:
    """ "1.5 GiB", "12 MiB"."""
    return gib(size) if size >= GIB else f"{size / MIB:.0f} MiB"


def mib(size: float) -> str:
    """ "1,234.5 MiB"."""
    return f"{size / MIB:,.1f} MiB"


def first_names(names: Sequence[str], count: int = 5) -> str:
    """ "a, b and 3 more"."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def clips_text(clips: range) -> str:
    """Clips for people, who count them from 1."""
    return f"clip {clips.start + 1}" if len(clips) == 1 else f"clips {clips.start + 1} to {clips.stop}"


def listing(kind: str, names: Sequence[str], shown: int = 5) -> str:
    """ "7 missing: a, b, c, d, e, ..."; `kind` is one of those above."""
    more = ", ..." if len(names) > shown else ""
    return kind.format(count=len(names), names=", ".join(names[:shown]) + more)


def short_seconds(seconds: float) -> str:
    """ "0.42 s", "8.4 s", "125 s": three digits."""
    digits = 2 if seconds < 1 else 1 if seconds < 100 else 0
    return f"{seconds:.{digits}f} s"


def clock_text(seconds: float) -> str:
    """ "42 s", "2 min 05 s", "1 h 03 min": no finer than the eye follows."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {whole % 60:02} s" if minutes else f"{whole} s"


def seconds_text(seconds: float) -> str:
    """ "0.42 s", "8.4 s", "2 min 05 s": no finer than it matters."""
    return short_seconds(seconds) if seconds < 100 else clock_text(seconds)
