"""Live sessions: one runs at a time, from Live Voice to the end of Live Out.

A session is known by a name that nobody can guess. Routes find it by that name, in the server's thread; all that they
call is safe there.
"""

import secrets
from collections import deque
from dataclasses import dataclass, field
from fractions import Fraction
from threading import Lock
from typing import TYPE_CHECKING, Literal, TypedDict

from liveavatar_runtime.live.control import Action, Control, Message

if TYPE_CHECKING:
    from liveavatar_runtime.live.latency import LatencyMeter
    from liveavatar_runtime.live.sound import LiveSound
    from liveavatar_runtime.live.sources import ReaderThread
    from liveavatar_runtime.live.voice import LiveVoice

    from ..comfy_types import Clip

PAGE = "/liveavatar/live"
KEPT_ENDED = 4
"""Sessions that are over and can still be asked about."""
TOLD_KEPT = 20

Stage = Literal["preparing", "running", "over"]


class State(TypedDict):
    """What pages and programs are told of a session. seconds: of the video so far; lag: of sound that waits, queued: of
    speech that does; latency: median and 95th percentile of what viewers have seen, in seconds."""

    id: str
    stage: Stage
    paused: bool
    seconds: float
    lag: float
    queued: float
    latency: tuple[float, float] | None
    told: list[str]


@dataclass(eq=False)
class LiveSession:
    """voice: what is heard, as the model hears it; clip: what encodes other prompts, if anything does."""

    voice: "LiveVoice"
    clip: "Clip | None" = None
    id: str = field(default_factory=lambda: secrets.token_urlsafe(9))
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    control: Control = field(default_factory=Control)
    stage: Stage = "preparing"
    latency: "LatencyMeter | None" = None
    told: "deque[str]" = field(default_factory=lambda: deque(maxlen=TOLD_KEPT))
    readers: "list[ReaderThread]" = field(default_factory=list)
    """What reads sound that programs on this machine write."""

    @property
    def sound(self) -> "LiveSound":
        return self.voice.source

    @property
    def path(self) -> str:
        return f"{PAGE}/{self.id}"

    @property
    def seconds(self) -> Fraction:
        """Of the sound, as far as the video was sampled."""
        return Fraction(self.sound.position, self.sound.sample_rate)

    def say(self, text: str) -> None:
        """Tell pages."""
        if text not in self.told:
            self.told.append(text)

    def begin(self) -> None:
        """The first block is wanted. The clock of the sound begins when its sound is, with the model loaded."""
        self.stage = "running"
        for reader in self.readers:
            reader.start()

    def end(self) -> None:
        """Nothing more is heard, and who waits for sound goes on with silence."""
        self.stage = "over"
        self.sound.stop()
        for reader in self.readers:
            reader.stop()
            if reader.error:
                self.say(reader.error)

    def ask(self, message: Message) -> None:
        self.control.ask(message, self.seconds)
        if message.action is not None:
            self._do(message.action)

    def _do(self, action: Action) -> None:
        if action == "pause":
            self.sound.pause()
        elif action == "go_on":
            self.sound.go_on()
        elif action == "barge_in":
            self.sound.barge_in()
        else:
            self.sound.stop()

    def state(self) -> State:
        sound, whole = self.sound, self.latency.summary().whole if self.latency is not None else None
        return State(
            id=self.id,
            stage=self.stage,
            paused=sound.is_paused,
            seconds=float(self.seconds),
            lag=round(sound.lag, 2),
            queued=round(sum(source.queued for source in sound.sources if source.kind == "speech"), 2),
            latency=None if whole is None else (round(whole.median, 2), round(whole.p95, 2)),
            told=list(self.told),
        )


_LOCK = Lock()
_SESSIONS: dict[str, LiveSession] = {}


def open_session(session: LiveSession) -> None:
    """Make a session known. One before it that was prepared and never ran ends, as ComfyUI runs one prompt at a
    time."""
    with _LOCK:
        for other in _SESSIONS.values():
            other.end()
        for name in list(_SESSIONS)[: max(0, len(_SESSIONS) + 1 - KEPT_ENDED)]:
            del _SESSIONS[name]
        _SESSIONS[session.id] = session


def session_named(name: str) -> LiveSession | None:
    with _LOCK:
        return _SESSIONS.get(name)


def session_of(voice: object) -> LiveSession | None:
    """The one that a voice is of."""
    with _LOCK:
        return next((session for session in _SESSIONS.values() if session.voice is voice), None)


def running_session() -> LiveSession | None:
    with _LOCK:
        return next((session for session in _SESSIONS.values() if session.stage == "running"), None)
