"""ComfyUI's side of the connection to the workers: what they say, sorted by whom it is for."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from liveavatar_runtime.duration import FRAMES_PER_BLOCK
from liveavatar_runtime.errors import MachineError, handled
from liveavatar_runtime.sampling.conditions import Conditions

from ..messages import (
    Cancel,
    DecoderRefused,
    Failure,
    Frames,
    FromDecoder,
    Malformed,
    Message,
    Noted,
    OfRun,
    Ready,
    Voice,
    WantVoice,
)
from ..wire.client import Client
from ..wire.codec import MessageError
from ..wire.endpoint import ConnectionLost

POLL_SECONDS = 0.2
MESSAGES_WAITING = 100_000
"""Of a run, or of a video. What is not asked for is not sent, so more are none of ours."""

M = TypeVar("M")
Poll = Callable[[], None]
"""Called while waiting; may raise to interrupt."""


class Connection:
    """A connection that is ready for runs, one at a time; a new run puts an end to the one before."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._received: queue.Queue[OfRun | MessageError | None] = queue.Queue(MESSAGES_WAITING)
        self._frames: queue.Queue[FromDecoder | MessageError] = queue.Queue(MESSAGES_WAITING)
        self._wanted: queue.SimpleQueue[WantVoice | None] = queue.SimpleQueue()
        self._ready = threading.Event()
        self._conditions: Conditions | None = None
        self._number = self._decoding = 0
        self._audio_error: Exception | None = None
        self._about: Ready | None = None
        self.failures: list[Failure] = []
        self.lost: str | None = None
        """Why the connection ended, once it has."""
        client.start(self._take, self._lose)
        threading.Thread(target=self._answer_all, daemon=True, name="workers' voice").start()

    @property
    def about(self) -> Ready:
        """What the workers said when they were ready; each rank's `caches` once a run has begun."""
        assert self._about is not None, "wait_until_ready comes first"
        return self._about

    def wait_until_ready(self, timeout: float, poll: Poll) -> None:
        """Raises ConnectionLost when the workers end before, MachineError when it takes too long."""
        deadline = time.monotonic() + timeout
        while not self._ready.wait(POLL_SECONDS):
            poll()
            if self.lost is not None:
                raise ConnectionLost(self.lost)
            if time.monotonic() > deadline:
                raise MachineError(f"the workers did not load the model within {timeout:g} s")

    def begin(self, number: int, conditions: Conditions) -> None:
        """The run `number` is the one that counts from now on; the workers ask for its voice and pose."""
        self.send(Cancel(number=self._number))
        self._received = queue.Queue(MESSAGES_WAITING)
        self._number, self._conditions, self._audio_error = number, conditions, None

    def send(self, message: Message) -> None:
        """Raises ConnectionLost when the workers are gone."""
        self._client.send(message)

    def receive(self, number: int, poll: Poll) -> Any:
        """The next message of run `number`. Raises ConnectionLost when the workers are gone, MessageError when they
        or this side could not read one."""
        while True:
            poll()
            if number != self._number:
                raise MachineError("another run uses these workers now; start this one again when that is finished")
            if self._audio_error is not None:
                raise self._audio_error
            message = self._next_of(self._received)
            if message is not None and message.number == number:
                return message

    def begin_decoding(self, number: int) -> None:
        """Frames of the video `number` are those that count from now on."""
        self._decoding, self._frames = number, queue.Queue(MESSAGES_WAITING)

    def end_decoding(self, number: int) -> None:
        """Nobody waits for frames of the video `number` any longer."""
        if number == self._decoding:
            self._decoding = 0

    def receive_frames(self, number: int) -> FromDecoder:
        """The next answer for a video. Raises as `receive` does."""
        while True:
            if number != self._decoding:
                raise MachineError(
                    "this video is not decoded by the workers any longer, or another one is; start it again"
                )
            message = self._next_of(self._frames)
            if message is not None and message.number == number:
                return message

    def _next_of(self, messages: "queue.Queue[M | MessageError]") -> "M | None":
        """What comes next, or None after a while. Raises ConnectionLost when no more can come, and what could not be
        read."""
        message = None
        with contextlib.suppress(queue.Empty):
            message = messages.get(timeout=POLL_SECONDS)
        if message is None and self.lost is not None:
            raise ConnectionLost(self.lost)
        if isinstance(message, MessageError):
            raise MessageError(*message.args)
        return message

    def close(self) -> None:
        self._client.close()
        self._wanted.put(None)

    def _lose(self, why: str) -> None:
        self.lost = why
        self._wanted.put(None)
        # Whoever waits finds it also behind a queue that is full.
        with contextlib.suppress(queue.Full):
            self._received.put_nowait(None)

    def _take(self, message: Any) -> None:
        if isinstance(message, Ready):
            self._about = message
            self._ready.set()
        elif isinstance(message, Failure):
            self.failures.append(message)
            # If it is gone already, that is noticed elsewhere.
            with contextlib.suppress(ConnectionLost):
                self.send(Noted())
        elif isinstance(message, WantVoice):
            self._wanted.put(message)
        elif isinstance(message, Malformed):
            self._take(MessageError(f"the workers could not read what this side sent: {message.reason}"))
        elif isinstance(message, MessageError):
            # Of what it was is not known.
            self._keep(self._received, message)
            self._keep(self._frames, message)
        elif isinstance(message, (Frames, DecoderRefused)):
            self._keep(self._frames, message)
        else:
            self._keep(self._received, message)

    def _keep(self, waiting: queue.Queue[Any], message: Any) -> None:
        too_many = f"the workers sent more than {MESSAGES_WAITING:,} messages that nobody asked for"
        with handled(queue.Full, lambda error: self._client.lose(too_many)):
            waiting.put_nowait(message)

    def _answer_all(self) -> None:
        while (asked := self._wanted.get()) is not None:
            # The reader notices the end as well.
            with contextlib.suppress(ConnectionLost):
                self._answer(asked)

    def _answer(self, asked: WantVoice) -> None:
        if asked.number != self._number or self._conditions is None:
            return
        voice = None
        with handled(Exception, self._voice_failed):
            voice = _voice_of(self._conditions, asked)
        if voice is not None:
            self.send(voice)

    def _voice_failed(self, error: Exception) -> None:
        """It belongs to whoever waits for the block."""
        self._audio_error = error


def _voice_of(conditions: Conditions, asked: WantVoice) -> Voice:
    """What was asked for, with the pose of the block that begins there."""
    pose = None if conditions.pose is None else conditions.pose.latents(asked.first // FRAMES_PER_BLOCK)
    audio = conditions.audio.frames(asked.first, asked.count)
    return Voice(number=asked.number, first=asked.first, audio=audio, pose=pose)
