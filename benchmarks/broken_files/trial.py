"""One broken file, loaded: what came of it, and what it cost."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from liveavatar_runtime.errors import InputError, printable

from .loaders import Loader
from .mutations import Mutation, mutated

RAW, NAMELESS, REFUSED, LOADED = "raw", "nameless", "refused", "loaded"


@dataclass(frozen=True)
class Outcome:
    """`kind`: loaded, refused (with the file's name), nameless (refused without it) or raw (any other exception)."""

    kind: str
    text: str = ""
    seconds: float = 0.0
    memory: int = 0
    """Bytes by which the process's memory grew at its highest; 0 where the system does not tell."""


class Trial:
    """A loader in a folder of its own, whose file is broken again and again."""

    def __init__(self, loader: Loader, folder: Path) -> None:
        self.loader, self.folder, self.file = loader, folder, folder / loader.file
        loader.make(folder)
        self.content = self.file.read_bytes()
        loader.load(folder)

    def mutated(self, steps: Sequence[tuple[Mutation, int]]) -> Outcome:
        return self.with_content(mutated(self.content, steps))

    def with_content(self, content: bytes) -> Outcome:
        # A new file, because the old one may still be mapped.
        self.file.unlink()
        self.file.write_bytes(content)
        start, before = time.process_time(), _restart_peak()
        outcome = self._outcome()
        return Outcome(*outcome, time.process_time() - start, max(0, _memory("VmHWM") - before))

    def _outcome(self) -> tuple[str, str]:
        try:
            self.loader.load(self.folder)
        except InputError as error:
            text = str(error)
            named = any(printable(str(path)) in text for path in (self.file, self.folder))
            return (REFUSED if named else NAMELESS), text
        except Exception as error:
            return RAW, f"{type(error).__name__}: {error}"
        return LOADED, ""


def _restart_peak() -> int:
    """Forgets the highest memory so far, where Linux allows that; returns what is used now."""
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return 0
    reset.write_text("5")
    return _memory("VmRSS")


def _memory(name: str) -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    return next(1024 * int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(f"{name}:"))
