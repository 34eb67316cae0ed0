"""Rank 0's side of the connection to ComfyUI: takes requests in, gives results out, from whatever thread."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from .channel import Channel, ChannelError, Listener, Message, welcome
from .decoding import CLOSE, OPEN, REFUSED, REQUESTS
from .failures import Failure
from .ranks import NOTICE_SECONDS

BEAT_SECONDS = 1.0
CLIENT_SILENCE_SECONDS = 60.0
WELCOMES_AT_ONCE = 8


class Cancelled(Exception):
    """ComfyUI does not want the rest of the run, or is gone."""


class Desk:
    """One ComfyUI at a time. When it goes, its run counts as cancelled, and the desk waits for the next one."""

    def __init__(self, listener: Listener, token: str) -> None:
        self._listener, self._token = listener, token
        self._changed = threading.Condition()
        self._channel: Channel | None = None
        self._requests: deque[Message] = deque()
        self._answers: dict[tuple[int, int], Message] = {}
        self._allowed: dict[int, int] = {}
        """The runs that ComfyUI has begun and not cancelled, and up to which block it wants them."""
        self._ready: dict[str, Any] | None = None
        self._decode: Callable[[Message], None] | None = None
        self._welcomes = threading.Semaphore(WELCOMES_AT_ONCE)

    def open(self) -> None:
        """Begin to listen."""
        for loop in (self._accept, self._beat):
            threading.Thread(target=loop, daemon=True, name=f"desk {loop.__name__}").start()

    def ready(self, about: dict[str, Any]) -> None:
        """The model is loaded; every ComfyUI is told, with what it is told about the workers."""
        with self._changed:
            self._ready = about
        self.send({"type": "ready", **about})

    def pass_on_decoding(self, decode: Callable[[Message], None]) -> None:
        """Requests to decode go to `decode`, which must return at once; without it they are refused."""
        self._decode = decode

    def send(self, header: dict[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
        """To ComfyUI, if one is there."""
        channel = self._channel
        if channel is not None:
            # Its reader notices the end as well, and ends the run.
            with contextlib.suppress(ChannelError):
                channel.send(header, tensors)

    def tell(self, failure: Failure) -> None:
        """Report a failure; if nobody is there yet, wait a moment for somebody."""
        with self._changed:
            self._changed.wait_for(lambda: self._channel is not None, NOTICE_SECONDS)
        self.send({"type": "failure", **asdict(failure)})

    def next_request(self) -> Message:
        """A message that begins something: run (with its rings), rings, release. Waits for it."""
        return self._wait(lambda: self._requests.popleft() if self._requests else None)

    def next_ring(self, number: int) -> Message:
        """The next tensor of a run's saved rings. Raises Cancelled."""
        return self._wait_for_run(number, lambda: self._requests.popleft() if self._requests else None)

    def wait_until_wanted(self, number: int, block: int) -> None:
        """Wait until ComfyUI wants a block. Raises Cancelled."""
        self._wait_for_run(number, lambda: True if self._allowed[number] >= block else None)

    def audio(self, number: int, first: int, count: int) -> Tensor:
        """Voice features of video frames, from ComfyUI. Raises Cancelled."""
        self.send({"type": "audio", "number": number, "first": first, "count": count})

        return self._wait_for_run(number, lambda: self._answers.pop((number, first), None)).tensors["audio"]

    def is_cancelled(self, number: int) -> bool:
        return number not in self._allowed

    def _wait(self, take: Callable[[], Any]) -> Any:
        with self._changed:
            while (taken := take()) is None:
                self._changed.wait()
            return taken

    def _wait_for_run(self, number: int, take: Callable[[], Any]) -> Any:
        taken = self._wait(lambda: Cancelled if self.is_cancelled(number) else take())
        if taken is Cancelled:
            raise Cancelled
        return taken

    def _accept(self) -> None:
        while True:
            connection = self._listener.accept()
            if not self._welcomes.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._receive_client, args=(connection,), daemon=True, name="desk client").start()

    def _receive_client(self, connection: Any) -> None:
        try:
            channel = welcome(connection, self._token)
        except ChannelError:
            return
        finally:
            self._welcomes.release()
        # Whoever knows the token may take the desk over: what was there before may be a connection that died unheard.
        with self._changed:
            before, self._channel = self._channel, channel
            self._clear()
            ready = self._ready
        if before is not None:
            before.close()
        channel.set_timeout(CLIENT_SILENCE_SECONDS)
        if ready is not None:
            self.send({"type": "ready", **ready})
        decoding = 0
        for message in self._messages(channel):
            if message.type == OPEN:
                decoding = message.header.get("number", 0)
            self._take(message)
        with self._changed:
            if self._channel is channel:
                self._channel = None
                self._clear()
        if decoding and self._decode is not None:
            # Its own session: another ComfyUI may have opened one by now.
            self._decode(Message({"type": CLOSE, "number": decoding}))

    def _clear(self) -> None:
        self._requests.clear()
        self._answers.clear()
        self._allowed.clear()
        self._changed.notify_all()

    def _messages(self, channel: Channel) -> Iterator[Message]:
        with contextlib.suppress(ChannelError):
            while self._channel is channel:
                yield channel.receive()
        channel.close()

    def _take(self, message: Message) -> None:
        if message.type in REQUESTS:
            self._take_decoding(message)
            return
        with self._changed:
            number = message.header.get("number", 0)
            if message.type == "run":
                self._allowed[number] = -1
            if message.type == "more" and number in self._allowed:
                self._allowed[number] = message.header["block"]
            elif message.type == "cancel":
                self._allowed.pop(number, None)
            elif message.type == "audio":
                self._answers[number, message.header["first"]] = message
            elif message.type not in ("beat", "more"):
                self._requests.append(message)
            self._changed.notify_all()

    def _take_decoding(self, message: Message) -> None:
        if self._decode is not None:
            self._decode(message)
        elif message.type != CLOSE:
            text = "these workers have no VAE; start them with --vae"
            self.send({"type": REFUSED, "number": message.header.get("number"), "message": text})

    def _beat(self) -> None:
        while True:
            self.send({"type": "beat"})
            time.sleep(BEAT_SECONDS)
