"""Sound that other programs write, on this machine: a file that grows, a named pipe. Each is read by a thread."""

import os
import stat
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import InputError, handled, reason_of
from .source import Source, SourceKind
from .wave_header import WaveFormat, read_wave_header

PIECE_SECONDS = 0.1
LOOKED_EVERY = 0.02
"""Seconds after which a reader looks whether there is more, and whether it is to stop."""

OpenSource = Callable[[SourceKind, int, str], Source]
"""`LiveSound.open_source`."""


@dataclass(frozen=True)
class Reading:
    """What is read. rate: of raw samples, s16le mono; a WAV file says its own. idle: seconds without anything new after
    which a file is over, None: never; once over, all of it was read."""

    path: Path
    rate: int = 48_000
    kind: SourceKind = "speech"
    idle: float | None = None


class ReaderThread(ABC):
    """Pushes what comes into a source until it is stopped or it is over; a context manager. `error`: why it ended
    before, in words."""

    def __init__(self, what: Reading, open_source: OpenSource) -> None:
        self.what, self.error = what, ""
        self._open_source = open_source
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"live sound of {what.path.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when nothing of it runs any more, at once."""
        self._stopping.set()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def wait(self, seconds: float) -> bool:
        """Whether it ended by itself within so many seconds."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def __enter__(self) -> "ReaderThread":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _work(self) -> None:
        def failed(error: Exception) -> None:
            said = str(error) if isinstance(error, InputError) else reason_of(error)
            self.error = f"{self.what.path}: {said}"

        with handled((OSError, InputError), failed):
            self._read()

    @abstractmethod
    def _read(self) -> None: ...

    def _idle(self) -> bool:
        """Waits a little; False when it is to stop."""
        return not self._stopping.wait(LOOKED_EVERY)

    def _push(self, source: Source, data: bytes, channels: int = 1) -> None:
        """Whole frames of s16le, the channels mixed; waits for room, as a program may be faster than speech."""
        samples = np.frombuffer(data, "<i2").reshape(-1, channels)
        mono = samples[:, 0] if channels == 1 else np.rint(samples.mean(axis=1))
        piece = max(1, round(PIECE_SECONDS * source.rate))
        for first in range(0, len(mono), piece):
            part = mono[first : first + piece].astype(np.int16)
            while source.room < len(part) / source.rate:
                if not self._idle():
                    return
            if self._stopping.is_set():
                return
            source.push(part)


class GrowingFile(ReaderThread):
    """A WAV file of 16 bit samples that is still written, or one of raw samples; from its beginning on.

    It is waited for until it is there. Of a WAV file that is being written the sizes in its header are not true yet, so
    it is over when nothing was added for `idle` seconds. A file that becomes shorter was begun anew and is read from
    its beginning. Raises nothing; `error` says what is wrong with it.
    """

    def _read(self) -> None:
        with ExitStack() as sources:
            source = self._whole_file(None, sources)
            while source is not None:
                source = self._whole_file(source, sources)

    def _whole_file(self, source: Source | None, sources: ExitStack) -> Source | None:
        """One file, into the same source as the one before if it has the same rate; None when no other one has taken
        its place."""
        with ExitStack() as stack:
            file = self._opened(stack)
            form = None if file is None else self._format(file)
            if file is None or form is None:
                return None
            if source is None or source.rate != form.rate:
                sources.close()
                source = self._open_source(self.what.kind, form.rate, self.what.path.name)
                sources.callback(source.close)
            rest = b""
            for data in self._growth(file):
                data = rest + data
                whole = len(data) // form.frame_bytes * form.frame_bytes
                self._push(source, data[:whole], form.channels)
                rest = data[whole:]
            return source if self._was_begun_anew(file) else None

    def _opened(self, stack: ExitStack) -> BinaryIO | None:
        """When it is there; None when it is to stop."""
        while not self.what.path.is_file():
            if not self._idle():
                return None
        return stack.enter_context(self.what.path.open("rb"))

    def _format(self, file: BinaryIO) -> WaveFormat | None:
        """When enough of it is written to tell; None when it is to stop, or is over before."""
        if self.what.path.suffix.lower() not in (".wav", ".wave"):
            return WaveFormat(self.what.rate, 1)
        waited = 0.0
        while (form := read_wave_header(file)) is None:
            waited += LOOKED_EVERY
            if not self._idle() or self._is_over(waited):
                return None
        return form

    def _growth(self, file: BinaryIO) -> Iterator[bytes]:
        """What is added, as it comes."""
        waited = 0.0
        while not self._stopping.is_set():
            data = file.read(1 << 16)
            if data:
                waited = 0.0
                yield data
                continue
            if self._was_begun_anew(file) or self._is_over(waited):
                return
            self._idle()
            waited += LOOKED_EVERY

    def _is_over(self, waited: float) -> bool:
        return self.what.idle is not None and waited >= self.what.idle

    def _was_begun_anew(self, file: BinaryIO) -> bool:
        """Shorter than what was read, or another file in its place."""
        found: list[os.stat_result] = []
        # A program that writes it again may remove it before.
        with handled(FileNotFoundError, lambda error: None):
            found.append(self.what.path.stat())
        if self._stopping.is_set() or not found:
            return False
        (there,) = found
        return there.st_size < file.tell() or not os.path.samestat(os.fstat(file.fileno()), there)


class NamedPipe(ReaderThread):
    """Raw samples that programs write to a named pipe, one after the other; it is made if it is not there, and removed
    at the end if it was. Each writer may come and go as it likes."""

    def __init__(self, what: Reading, open_source: OpenSource) -> None:
        """Raises InputError where the system has none, and where the path is something else."""
        reason = no_named_pipes()
        if reason:
            raise InputError(reason)
        if what.path.exists() and not stat.S_ISFIFO(what.path.stat().st_mode):
            raise InputError(
                f"{what.path} is no named pipe but something else. Give a path where nothing is, in an existing "
                "folder, or that of a named pipe."
            )
        super().__init__(what, open_source)

    def _read(self) -> None:
        with ExitStack() as stack:
            if not self.what.path.exists():
                os.mkfifo(self.what.path, 0o600)
                stack.callback(self.what.path.unlink, missing_ok=True)
            # Opened for writing as well, so that it does not end when a writer goes, and opening waits for nobody.
            pipe = os.open(self.what.path, os.O_RDWR | os.O_NONBLOCK)
            stack.callback(os.close, pipe)
            source = self._open_source(self.what.kind, self.what.rate, self.what.path.name)
            stack.callback(source.close)
            rest = b""
            while not self._stopping.is_set():
                data = rest + _available(pipe)
                whole = len(data) // 2 * 2
                self._push(source, data[:whole])
                rest = data[whole:]
                if not whole:
                    self._idle()


def _available(pipe: int) -> bytes:
    """What was written and not read."""
    found: list[bytes] = []
    with handled(BlockingIOError, lambda error: None):
        found.append(os.read(pipe, 1 << 16))
    return b"".join(found)


def no_named_pipes() -> str:
    """Why there are no named pipes; "" where there are."""
    if hasattr(os, "mkfifo"):
        return ""
    return (
        "this system has no named pipes for programs to write sound to. Use a growing file, or the session's address "
        "for voices."
    )


@dataclass(frozen=True)
class SourceRow:
    """A way for programs on this machine to give sound. missing(): why it cannot be used here, "" if it can."""

    name: str
    reader: Callable[[Reading, OpenSource], ReaderThread]
    missing: Callable[[], str] = lambda: ""


LOCAL_SOURCES = (SourceRow("growing file", GrowingFile), SourceRow("named pipe", NamedPipe, no_named_pipes))


def local_source(name: str, what: Reading, open_source: OpenSource) -> ReaderThread:
    """A reader that is not started yet. Raises InputError for another name, and for one that cannot be used here."""
    rows = {row.name: row for row in LOCAL_SOURCES}
    if name not in rows:
        raise InputError(f"the source is {name!r}; allowed are {', '.join(rows)}.")
    reason = rows[name].missing()
    if reason:
        raise InputError(reason)
    return rows[name].reader(what, open_source)
