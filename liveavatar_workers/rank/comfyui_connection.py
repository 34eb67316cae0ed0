"""Rank 0's side of the connection to ComfyUI: takes requests in, gives results out, from whatever thread."""

import contextlib
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from functools import partial
from typing import Any

from liveavatar_runtime.errors import InputError, replaced

from ..messages import (
    Cancel,
    CloseDecoder,
    Decode,
    DecoderRefused,
    Failure,
    FromDecoder,
    Message,
    More,
    Noted,
    OpenDecoder,
    Ready,
    Release,
    Ring,
    RunRequest,
    ToDecoder,
    Voice,
    WantRings,
    WantVoice,
)
from ..wire.endpoint import ConnectionLost
from ..wire.server import Events, Server, Session
from .lifetime import end_process
from .ranks import NOTICE_SECONDS

REQUESTS_WAITING = 20_000
"""Messages of ComfyUI that nobody has taken yet, those of a state among them: two for each layer and step."""


class RunCancelled(Exception):
    """ComfyUI does not want the rest of the run, or is gone."""


class ComfyUIConnection:
    """One ComfyUI at a time. When it goes, its runs count as cancelled, and the next one is waited for."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._changed = threading.Condition()
        self._session: Session | None = None
        self._requests: deque[Any] = deque()
        self._asked: Counter[tuple[int, int]] = Counter()
        self._voices: defaultdict[tuple[int, int], list[Voice]] = defaultdict(list)
        """Voices that ranks wait for, by run and first frame, and those that have come. Several may want the same."""
        self._known: dict[int, RunRequest] = {}
        """All runs of the session; what is said about others goes nowhere."""
        self._allowed: dict[int, int] = {}
        """The runs that ComfyUI has begun and not cancelled, and up to which block it wants them."""
        self._video: int | None = None
        """What ComfyUI has opened last to be decoded, and not closed."""
        self._noted = 0
        """Failures that have arrived."""
        self._ready: Ready | None = None
        self._decode: Callable[[ToDecoder], bool] | None = None

    def open(self) -> None:
        """Begin to listen."""
        # Workers that nobody can reach are of no use; torchrun or the next run starts new ones.
        self._server.start(Events(self._opened, self._take, self._closed, end_process))

    def ready(self, about: Ready) -> None:
        """The model is loaded; every ComfyUI is told, with what it is told about the workers."""
        with self._changed:
            self._ready = about
        self._send(about)

    def pass_on_decoding(self, decode: Callable[[ToDecoder], bool]) -> None:
        """Requests to decode go to `decode`, which returns at once, whether it could; without it they are refused."""
        self._decode = decode

    def send(self, message: Any) -> None:
        """A message about a run to the ComfyUI that has begun it, if it is there."""
        session = self._session
        if message.number in self._known:
            self._send_to(session, message)

    def bring_back(self, message: FromDecoder) -> None:
        """What the rank that decodes has made goes to the ComfyUI that has opened the video."""
        session = self._session
        if message.number == self._video:
            self._send_to(session, message)

    def tell(self, failure: Failure) -> None:
        """Report a failure, and wait until it has arrived; if nobody is there yet, wait a moment for somebody."""
        with self._changed:
            self._changed.wait_for(lambda: self._session is not None, NOTICE_SECONDS)
            session, before = self._session, self._noted
        self._send_to(session, failure)
        with self._changed:
            arrived = partial(self._has_noted, session, before)
            self._changed.wait_for(arrived, NOTICE_SECONDS)

    def _has_noted(self, session: Session | None, before: int) -> bool:
        return session != self._session or self._noted > before

    def _send(self, message: Message) -> None:
        self._send_to(self._session, message)

    def _send_to(self, session: Session | None, message: Message) -> None:
        if session is not None:
            # The server notices the end as well, and ends the session.
            with contextlib.suppress(ConnectionLost):
                self._server.send(message, session)

    def next_request(self) -> Any:
        """A message that begins something: run (with its rings), rings, release. Waits for it."""
        return self._wait(lambda: self._requests.popleft() if self._requests else None)

    def next_ring(self, number: int) -> Ring:
        """The next tensor of a run's saved rings. Raises RunCancelled, InputError when something else comes."""

        def take() -> Any:
            return self._requests[0] if self._requests else None

        ring = self._wait_for_run(number, take)
        if not isinstance(ring, Ring) or ring.number != number:
            raise InputError("the state that the run begins with has fewer tensors than were announced")
        self._requests.popleft()
        return ring

    def wait_until_wanted(self, number: int, block: int) -> None:
        """Wait until ComfyUI wants a block. Raises RunCancelled."""
        self._wait_for_run(number, lambda: True if self._allowed[number] >= block else None)

    def voice(self, number: int, first: int, count: int) -> Voice:
        """Voice features of video frames, and the pose of a run that is driven, from ComfyUI. Raises RunCancelled, or
        InputError when they do not fit."""
        key = number, first
        with self._changed:
            self._asked[key] += 1
        self.send(WantVoice(number=number, first=first, count=count))
        voice = self._wait_for_run(number, lambda: self._voices[key].pop() if self._voices[key] else None)
        with self._changed:
            for table in (self._asked, self._voices):
                if not table[key]:
                    table.pop(key, None)
        run = self._known.get(number)
        if self._ready is not None and run is not None:
            refuse_misfits(partial(voice.check_for, self._ready.config, count, run.actors))
            refuse_misfits(partial(voice.check_pose, run.pose_size))
        return voice

    def is_cancelled(self, number: int) -> bool:
        return number not in self._allowed

    def _wait(self, take: Callable[[], Any]) -> Any:
        with self._changed:
            while (taken := take()) is None:
                self._changed.wait()
            return taken

    def _wait_for_run(self, number: int, take: Callable[[], Any]) -> Any:
        taken = self._wait(lambda: RunCancelled if self.is_cancelled(number) else take())
        if taken is RunCancelled:
            raise RunCancelled
        return taken

    def _opened(self, session: Session) -> None:
        with self._changed:
            self._session = session
            self._changed.notify_all()
            ready = self._ready
        if ready is not None:
            self._send(ready)

    def _closed(self) -> None:
        with self._changed:
            video, self._video, self._session = self._video, None, None
            for table in (self._requests, self._voices, self._asked, self._known, self._allowed):
                table.clear()
            self._changed.notify_all()
        if video is not None and self._decode is not None:
            self._decode(CloseDecoder(number=video))

    def _take(self, message: Any) -> None:
        if isinstance(message, (OpenDecoder, Decode, CloseDecoder)):
            self._take_decoding(message)
            return
        with self._changed:
            if isinstance(message, More):
                if message.number in self._allowed:
                    self._allowed[message.number] = message.block
            elif isinstance(message, Cancel):
                self._cancel(message.number)
            elif isinstance(message, Voice):
                self._take_voice(message)
            elif isinstance(message, Noted):
                self._noted += 1
            else:
                self._request(message)
            self._changed.notify_all()

    def _cancel(self, number: int) -> None:
        self._allowed.pop(number, None)
        for key in [key for key in self._asked if key[0] == number]:
            del self._asked[key]
            self._voices.pop(key, None)

    def _take_voice(self, voice: Voice) -> None:
        key = voice.number, voice.first
        # One that nobody asked for is not kept.
        if self._asked[key] > 0:
            self._asked[key] -= 1
            self._voices[key].append(voice)

    def _request(self, message: RunRequest | Ring | WantRings | Release) -> None:
        if len(self._requests) >= REQUESTS_WAITING:
            self._server.end_session(f"more than {REQUESTS_WAITING:,} messages wait to be worked on")
            return
        if isinstance(message, RunRequest):
            self._known[message.number] = message
            self._allowed[message.number] = -1
        self._requests.append(message)

    def _take_decoding(self, message: ToDecoder) -> None:
        if self._decode is None:
            if not isinstance(message, CloseDecoder):
                self._send(
                    DecoderRefused(number=message.number, reason="these workers have no VAE; start them with --vae")
                )
            return
        if isinstance(message, OpenDecoder):
            self._video = message.number
        elif isinstance(message, CloseDecoder) and message.number == self._video:
            self._video = None
        if not self._decode(message):
            self._server.end_session("more blocks were sent to be decoded than wait in any video")


def refuse_misfits(check: Callable[[], None]) -> None:
    """Raises InputError for what `check` finds wrong, so that the run is refused and the workers go on."""
    with replaced(ValueError, lambda error: InputError(str(error))):
        check()
