"""A file while it is written: whether it is still the one that was begun, and what of it plays after a failure."""

import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..duration import format_duration
from ..errors import MachineError, reason_of, replaced


class OutputLostError(MachineError):
    """Somebody removed, replaced or shortened a file while it was written."""


class GrowingFile:
    """A file that one writer in this process appends to; nobody else may change it.

    path: exists. The file is known by what the system calls it, not by its name, so another one under the same name is
    never taken for it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        found = path.stat()
        self._identity, self.size = (found.st_dev, found.st_ino), found.st_size

    def check(self) -> None:
        """Before more is written. Raises OutputLostError unless the file is as the last `grew` has seen it."""
        self._look(lambda size: size == self.size)

    def grew(self) -> None:
        """After something was written: remembers how long the file is. Raises OutputLostError as `check`."""
        self.size = self._look(lambda size: size >= self.size)

    def is_there(self) -> bool:
        """Whether the file is still under its name."""
        with suppress(OSError):
            found = self.path.stat()
            return (found.st_dev, found.st_ino) == self._identity
        return False

    def whole_bytes(self) -> int:
        """How much of what was written is there still."""
        return min(self.size, self.path.stat().st_size) if self.is_there() else 0

    def end_at(self, size: int) -> None:
        """Cut off what is behind so many bytes, where the system lets us."""
        with suppress(OSError):
            if self.is_there() and self.path.stat().st_size > size:
                os.truncate(self.path, size)

    def remove(self) -> None:
        """Removes the file, unless its name stands for another one now or the system refuses."""
        with suppress(OSError):
            if self.is_there():
                self.path.unlink()

    def _look(self, accepts: Callable[[int], bool]) -> int:
        with replaced(OSError, lambda error: self._lost(f"removed or moved ({reason_of(error)})")):
            found = self.path.stat()
        if (found.st_dev, found.st_ino) != self._identity:
            raise self._lost("replaced by another one")
        if not accepts(found.st_size):
            raise self._lost(f"changed by another program (it has {found.st_size} bytes instead of {self.size})")
        return found.st_size

    def _lost(self, what: str) -> OutputLostError:
        return OutputLostError(f"{self.path} was {what} while it was written")


def packets_in(path: Path) -> Counter[int]:
    """How many there are of each stream, as far as the file can be read."""
    import av
    from av.error import FFmpegError

    found: Counter[int] = Counter()
    with suppress(FFmpegError), av.open(str(path)) as container:
        for packet in container.demux():
            found[packet.stream_index] += bool(packet.size)
    return +found


def playable_frames(path: Path) -> int:
    """Frames that a player shows, 0 for a file that does not play: it is opened, its packets are counted and those
    behind the last keyframe decoded."""
    import av
    from av.error import FFmpegError

    group: list[Any] = []
    before, shown = 0, 0
    with suppress(FFmpegError), av.open(str(path)) as container:
        if not container.streams.video:
            return 0
        with suppress(FFmpegError):
            for packet in container.demux(container.streams.video[0]):
                if packet.is_keyframe:
                    before, group = before + len(group), []
                group.append(packet)
        for packet in group:
            shown += len(packet.decode())
    return before + shown


def what_plays(frames: int, fps: Fraction) -> str:
    """A sentence for the user about a file that could not be finished."""
    if not frames:
        return "Nothing of it plays, so nothing of it was kept."
    return f"Its first {frames} frames ({format_duration(frames / fps)}) play."
