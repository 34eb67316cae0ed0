"""Ways to write a file that are wrong, and one that is right: what the faults must find, and what they must not."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkstemp
from typing import Any

from liveavatar_runtime.errors import MachineError

from .scenarios import Parts, Place, Scenario

CONTENT = b"finished clip " * 100


@contextmanager
def told(path: Path, leftover: Path) -> Iterator[None]:
    """An error in the user's words, and nothing left behind."""
    try:
        yield
    except OSError as error:
        with suppress(OSError):
            leftover.unlink(missing_ok=True)
        raise MachineError(f"{path} cannot be written: {error.strerror}. Make room there, then run again.") from error


def write_synced(temporary: Path) -> None:
    with temporary.open("wb") as file:
        file.write(CONTENT)
        file.flush()
        os.fsync(file.fileno())


def careful(path: Path) -> None:
    """As it should be."""
    temporary = path.with_suffix(".tmp")
    with told(path, temporary):
        write_synced(temporary)
        os.replace(temporary, path)


def in_place(path: Path) -> None:
    """What dies within leaves half a file under the name of a whole one."""
    with told(path, path):
        write_synced(path)


def unsynced(path: Path) -> None:
    """The new name may reach the disk before the content does."""
    temporary = path.with_suffix(".tmp")
    with told(path, temporary):
        temporary.write_bytes(CONTENT)
        os.replace(temporary, path)


def untidy(path: Path) -> None:
    """Leaves the half-written file, under another name each time, and shows the system's own error."""
    descriptor, temporary = mkstemp(".tmp", dir=path.parent)
    os.write(descriptor, CONTENT)
    os.fsync(descriptor)
    os.close(descriptor)
    os.replace(temporary, path)


def silent(path: Path) -> None:
    """Takes what failed for done."""
    with suppress(MachineError):
        careful(path)


def keeps(write: Callable[[Path], None]) -> Scenario:
    """Makes a file unless it is there."""

    def run(parts: Parts, place: Place) -> dict[str, Any]:
        path = place.output / "kept"
        if not path.exists():
            write(path)
        return {"whole": path.exists() and path.stat().st_size == len(CONTENT)}

    return Scenario(write.__name__, run)


DEFECTS: dict[Callable[[Path], None], tuple[str, ...]] = {
    careful: (),
    in_place: ("the run after it gave another whole",),
    unsynced: ("the run after it gave another whole",),
    untidy: ("raised", "left over"),
    silent: ("the run told no error",),
}
"""What the faults find in each; nothing where it is right."""
