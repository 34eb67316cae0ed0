"""ComfyUI's side of the connection to the workers: a thread that reads, so that their end is noticed at once."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ..errors import MachineError
from ..sampling.conditions import FrameFeatures
from .channel import Channel, ChannelError, Message
from .decoding import ANSWERS
from .failures import Failure

BEAT_SECONDS = 2.0
SILENCE_SECONDS = 8.0
"""Rank 0 beats every second; after such a silence it hangs or is out of reach."""
POLL_SECONDS = 0.2

Poll = Callable[[], None]
"""Called while waiting; may raise to interrupt."""


class Link:
    """A connection that is ready for runs, one at a time; a new run puts an end to the one before."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        channel.set_timeout(SILENCE_SECONDS)
        self._received: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._ready = threading.Event()
        self._audio: FrameFeatures | None = None
        self._number = self._decoding = 0
        self._frames: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._audio_error: Exception | None = None
        self.about: dict[str, Any] = {}
        """What the workers said when they were ready: `ranks`, each with where it is, its `bytes` of weights and,
        once a run has begun, of `caches`; and `vae`, what decodes (`decoder_relay.DecoderRelay.about`), or None."""
        self.failures: list[Failure] = []
        self.lost: str | None = None
        """Why the connection ended, once it has."""
        for loop in (self._read, self._beat):
            threading.Thread(target=loop, daemon=True, name=f"workers {loop.__name__}").start()

    def wait_until_ready(self, timeout: float, poll: Poll) -> None:
        """Raises ChannelError when the workers end before, MachineError when it takes too long."""
        deadline = time.monotonic() + timeout
        while not self._ready.wait(POLL_SECONDS):
            poll()
            if self.lost is not None:
                raise ChannelError(self.lost)
            if time.monotonic() > deadline:
                raise MachineError(f"the workers did not load the model within {timeout:g} s")

    def begin(self, number: int, audio: FrameFeatures) -> None:
        """The run `number` is the one that counts from now on."""
        self.send({"type": "cancel", "number": self._number})
        self._number, self._audio, self._audio_error = number, audio, None

    def send(self, header: dict[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
        """Raises ChannelError when the workers are gone."""
        self._channel.send(header, tensors)

    def receive(self, number: int, poll: Poll) -> Message:
        """The next message of run `number`. Raises ChannelError when the workers are gone."""
        while True:
            poll()
            if number != self._number:
                raise MachineError("another run uses these workers now; start this one again when that is finished")
            if self._audio_error is not None:
                raise self._audio_error
            try:
                message = self._received.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            if message is None:
                raise ChannelError(self.lost or "the connection was closed")
            if message.header.get("number") == number:
                return message

    def begin_decoding(self, number: int) -> None:
        """Frames of the session `number` are those that count from now on."""
        self._decoding, self._frames = number, queue.SimpleQueue()

    def end_decoding(self, number: int) -> None:
        """Nobody waits for frames of the session `number` any longer."""
        if number == self._decoding:
            self._decoding = 0

    def receive_frames(self, number: int) -> Message:
        """The next answer in session `number`. Raises ChannelError when the workers are gone."""
        while True:
            if number != self._decoding:
                raise MachineError(
                    "this video is not decoded by the workers any longer, or another one is; start it again"
                )
            try:
                message = self._frames.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if self.lost is not None:
                    raise ChannelError(self.lost) from None
                continue
            if message.header["number"] == number:
                return message

    def close(self) -> None:
        self._channel.close()

    def _read(self) -> None:
        try:
            while True:
                self._take(self._channel.receive())
        except ChannelError as error:
            self.lost = str(error)
            self._received.put(None)
            self._channel.close()

    def _take(self, message: Message) -> None:
        if message.type == "ready":
            self.about = message.header
            self._ready.set()
        elif message.type == "failure":
            names = ("rank", "where", "message", "trace", "consequence")
            self.failures.append(Failure(**{name: message.header[name] for name in names}))
        elif message.type == "audio":
            self._answer(message.header)
        elif message.type in ANSWERS:
            self._frames.put(message)
        elif message.type != "beat":
            self._received.put(message)

    def _answer(self, asked: dict[str, Any]) -> None:
        if asked["number"] != self._number or self._audio is None:
            return
        try:
            features = self._audio.frames(asked["first"], asked["count"])
        except Exception as error:
            # It belongs to whoever waits for the block.
            self._audio_error = error
            return
        self.send({"type": "audio", "number": asked["number"], "first": asked["first"]}, {"audio": features})

    def _beat(self) -> None:
        with contextlib.suppress(ChannelError):
            while self.lost is None:
                self.send({"type": "beat"})
                time.sleep(BEAT_SECONDS)
