"""One source of a live session's sound: a microphone, or a program that speaks."""

import threading
from typing import Any, Literal, Protocol, get_args

from numpy.typing import NDArray

from ..errors import InputError
from .buffers import Buffer, BufferCounts
from .conversion import RateConversion, pcm
from .samples import SOUND_RATE

SourceKind = Literal["microphone", "speech"]
SOURCE_KINDS: tuple[SourceKind, ...] = get_args(SourceKind)


class Session(Protocol):
    """What a source needs of its session (`sound.LiveSound`). All but `changed` is called while that is held."""

    changed: threading.Condition

    def advance(self) -> float:
        """Have all sound mixed that is due; the clock's seconds."""
        ...

    def buffer_for(self, kind: SourceKind) -> Buffer:
        """Where what a source gives waits."""
        ...

    def room_for(self, source: "Source") -> float:
        """Seconds that a source may give now."""
        ...

    def is_listening(self, source: "Source") -> bool:
        """Whether what it gives is kept."""
        ...

    def forget(self, source: "Source") -> None:
        """It will give nothing more."""
        ...


class Source:
    """Any thread may push. `rate`: samples a second of what is pushed."""

    def __init__(self, session: Session, kind: SourceKind, rate: int, name: str) -> None:
        """Raises InputError for another kind, and for a rate that is not a whole number of 8,000 to 192,000 Hz."""
        if kind not in SOURCE_KINDS:
            raise InputError(f"the source's kind is {kind!r}; allowed are {', '.join(SOURCE_KINDS)}.")
        self._session, self._conversion = session, RateConversion(rate)
        self.kind: SourceKind = kind
        self.rate, self.name = rate, name
        self.buffer = session.buffer_for(kind)

    def push(self, samples: NDArray[Any]) -> None:
        """The next samples, float32 [n] in -1..1 or int16 [n].

        Raises InputError when it is closed, for samples of another kind or that are no numbers, and when more is
        queued than is allowed; then none of these samples is taken.
        """
        given = pcm(samples)
        with self._session.changed:
            now = self._session.advance()
            if self.buffer.closed:
                raise InputError(
                    f"the sound of {self.title} was closed, and {len(given)} samples came after that. Open it again."
                )
            if not self._session.is_listening(self):
                return
            self._check_room(len(given) / self.rate)
            self.buffer.put(self._conversion.convert(given), now)
            self._session.changed.notify_all()

    def close(self) -> None:
        """No more comes; what is queued is heard. Closing again does nothing."""
        with self._session.changed:
            if self.buffer.closed:
                return
            now = self._session.advance()
            if self._session.is_listening(self):
                self.buffer.put(self._conversion.end(), now)
            self.buffer.closed = True
            self._session.forget(self)
            self._session.changed.notify_all()

    @property
    def title(self) -> str:
        """For messages."""
        return f"{self.kind} {self.name}" if self.name else self.kind

    @property
    def queued(self) -> float:
        """Seconds that were pushed and are not heard yet."""
        with self._session.changed:
            self._session.advance()
            return self.buffer.level

    @property
    def room(self) -> float:
        """Seconds that may be pushed now."""
        with self._session.changed:
            self._session.advance()
            return self._session.room_for(self)

    @property
    def speed(self) -> float:
        """How fast it is heard to stay in step with the session, near 1."""
        return self.buffer.speed

    @property
    def counts(self) -> BufferCounts:
        return self.buffer.counts

    def _check_room(self, seconds: float) -> None:
        room = self._session.room_for(self)
        if seconds <= room:
            return
        if self.kind == "microphone":
            raise InputError(
                f"{seconds:.2f} s of {self.title} came in one piece, and {room:g} s are allowed, as a microphone gives "
                "its sound in real time. Push pieces of 0.02 to 0.1 s as they are recorded, or open the source as "
                "speech."
            )
        raise InputError(
            f"the queue is full: {seconds:.1f} s of {self.title} were to be added to {self.buffer.level:.1f} s "
            f"that are not spoken yet, and {room:.1f} s more are allowed. Wait until some of it was spoken, or "
            "end it with a barge-in."
        )


def seconds_of(samples: int) -> float:
    """Of a session's sound."""
    return samples / SOUND_RATE
