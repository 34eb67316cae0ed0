"""Rank 0's side of connections, and the ComfyUIs that come and go there; also those that say what nobody should."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from test_messages import a_run
from tiny_avatar import CONFIG, Noise
from wire_peers import LOOPBACK, SECONDS, Connected, RawClient, wait_for

from liveavatar_runtime.errors import InputError
from liveavatar_workers.keys import KeyPair
from liveavatar_workers.messages import (
    Cancel,
    CloseDecoder,
    Decode,
    DecoderRefused,
    Frames,
    Malformed,
    More,
    OpenDecoder,
    Ready,
    Release,
    Ring,
    SessionEnded,
    ToComfyUI,
    ToDecoder,
    ToWorkers,
    Voice,
    WantVoice,
)
from liveavatar_workers.rank import comfyui_connection
from liveavatar_workers.rank.comfyui_connection import ComfyUIConnection, RunCancelled
from liveavatar_workers.wire.client import Client
from liveavatar_workers.wire.server import Server

LATENTS = torch.zeros(16, 3, 8, 8)
READY = Ready(executor="fsdp", config=CONFIG, dtype="float32", key="k", ranks=[], vae=None)


class Opened:
    """Rank 0's side, and ComfyUIs that know the keys."""

    def __init__(self, decode: Callable[[ToDecoder], bool] | None = None) -> None:
        self._pair, self._client = KeyPair.new(), KeyPair.new()
        self.server = Server((LOOPBACK, 0), self._pair, {self._client.public}, ToWorkers)
        self.comfyui = ComfyUIConnection(self.server)
        if decode is not None:
            self.comfyui.pass_on_decoding(decode)
        self.comfyui.open()

    def connect(self) -> Connected:
        return Connected(Client((LOOPBACK, self.server.port), self._client, self._pair.public, ToComfyUI))

    def raw(self) -> RawClient:
        return RawClient((LOOPBACK, self.server.port), self._client, self._pair.public).hello()


@contextlib.contextmanager
def opened(decode: Callable[[ToDecoder], bool] | None = None) -> Iterator[Opened]:
    made = Opened(decode)
    try:
        yield made
    finally:
        made.server.close()


def open_video(number: int) -> OpenDecoder:
    return OpenDecoder(number=number, start="hold", dtype="float32", priming=LATENTS)


def test_a_comfyui_that_goes_ends_its_own_decoding_only() -> None:
    passed_on: queue.Queue[tuple[type, int]] = queue.Queue()

    def decode(message: ToDecoder) -> bool:
        passed_on.put((type(message), message.number))
        return True

    with opened(decode) as there:
        first = there.connect()
        first.client.send(open_video(1))
        assert passed_on.get(timeout=SECONDS) == (OpenDecoder, 1)
        first.close()
        assert passed_on.get(timeout=SECONDS) == (CloseDecoder, 1)
        second = there.connect()
        second.client.send(open_video(2))
        assert passed_on.get(timeout=SECONDS) == (OpenDecoder, 2)
        # Frames of the first one are nobody's any more.
        for number in (1, 2):
            there.comfyui.bring_back(Frames(number=number, block=0, pixels=torch.zeros(3, 1, 8, 8)))
        assert second.next().number == 2
        third = there.connect()
        assert passed_on.get(timeout=SECONDS) == (CloseDecoder, 2)
        third.client.send(Decode(number=2, block=0, latents=LATENTS))
        assert passed_on.get(timeout=SECONDS) == (Decode, 2)
        for one in (second, third):
            one.close()


def test_what_a_run_says_reaches_the_comfyui_that_has_begun_it_only() -> None:
    with opened() as there:
        first = there.connect()
        first.client.send(a_run(number=1))
        assert there.comfyui.next_request().number == 1
        there.comfyui.send(Ring(number=1, name="a", tensor=LATENTS))
        assert first.next().number == 1
        second = there.connect()
        second.client.send(a_run(number=2))
        assert there.comfyui.next_request().number == 2
        for number in (1, 2):
            there.comfyui.send(Ring(number=number, name="a", tensor=LATENTS))
        assert second.next().number == 2
        assert there.comfyui.is_cancelled(1) and not there.comfyui.is_cancelled(2)
        assert "another ComfyUI" in first.why_lost() and first.came.empty()
        second.close()
        wait_for(lambda: there.comfyui.is_cancelled(2))
        first.close()


def test_one_that_comes_later_is_told_what_is_ready() -> None:
    with opened() as there:
        first = there.connect()
        there.comfyui.ready(READY)
        second = there.connect()
        for one in (first, second):
            assert one.next().config == CONFIG
            one.close()


MALFORMED = {
    "fields missing": ({"type": "run", "number": 1}, "missing required field"),
    "unknown type": ({"type": "exec", "number": 1}, "Invalid value 'exec'"),
    "no type": ({}, "missing required field `type`"),
    "shape [1]": ({"type": "voice", "number": 1, "first": 0, "audio": ["float32", [1]]}, r"audio is float32 [1]"),
    "uint8": ({"type": "voice", "number": 1, "first": 0, "audio": ["uint8", [1, 2, 2, 1]]}, "audio is uint8"),
    "a block that is no number": ({"type": "more", "number": 1, "block": float("nan")}, "at `$.block`"),
    "huge": ({"type": "ring", "number": 1, "name": "a", "tensor": ["float32", [2**33]]}, "were announced"),
    "a dtype of no tensor": ({"type": "ring", "number": 1, "name": "a", "tensor": ["object", [1]]}, "`$.tensor`"),
}


@pytest.mark.parametrize(("header", "told"), MALFORMED.values(), ids=list(MALFORMED))
def test_malformed_messages_are_answered_and_the_session_goes_on(header: dict[str, Any], told: str) -> None:
    with opened(lambda message: True) as there:
        raw = there.raw()
        raw.say_header(header, bytes(4))
        answer = raw.answer()
        assert isinstance(answer, Malformed) and told in answer.reason
        raw.say(Release(number=5))
        assert there.comfyui.next_request().number == 5
        raw.close()


def test_frames_that_are_no_message_are_answered_and_the_session_goes_on() -> None:
    with opened() as there:
        raw = there.raw()
        for frames in ([], [b"h"], [b"h", b""], [b"q", b"x"], [b"h", b"x", b"y", b"z"]):
            raw.send(*frames)
            assert isinstance(raw.answer(), Malformed)
        for number in (b"", b"short", bytes(17)):
            raw.socket.send_multipart([number, b"h", b"x"])
            _, *rest = raw.socket.recv_multipart()
            assert b"number of a session" in rest[1]
        # Larger than any header: ZeroMQ ends the connection, before the memory is taken.
        raw.say(Release(number=5))
        assert there.comfyui.next_request().number == 5
        raw.close()


def test_a_frame_that_is_too_large_ends_the_connection_only() -> None:
    with opened() as there:
        raw = there.raw()
        raw.send(b"h", bytes(5 * 2**20))
        wait_for(lambda: there.server._session is None)
        again = there.connect()
        again.client.send(Release(number=5))
        assert there.comfyui.next_request().number == 5
        again.close()
        raw.close()


def test_messages_out_of_turn_change_nothing() -> None:
    with opened() as there:
        mine = there.connect()
        # Of no run, of a run that has not begun, and what nobody asked for.
        for message in (
            More(number=1, block=5),
            Cancel(number=1),
            Voice(number=1, first=0, audio=Noise(actors=2).frames(0, 12)),
            CloseDecoder(number=3),
        ):
            mine.client.send(message)
        mine.client.send(Decode(number=3, block=0, latents=LATENTS))
        refused = mine.next()
        assert isinstance(refused, DecoderRefused) and "start them with --vae" in refused.reason
        mine.client.send(a_run(number=1))
        assert there.comfyui.next_request().number == 1
        waiting = threading.Thread(target=there.comfyui.wait_until_wanted, args=(1, 0))
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive(), "a credit from before the run counted"
        mine.client.send(More(number=1, block=0))
        waiting.join(SECONDS)
        mine.close()


def test_a_state_that_is_shorter_than_announced_is_told() -> None:
    with opened() as there:
        mine = there.connect()
        mine.client.send(a_run(number=1, rings=2))
        mine.client.send(Ring(number=1, name="a", tensor=LATENTS))
        mine.client.send(a_run(number=2))
        assert there.comfyui.next_request().number == 1
        assert there.comfyui.next_ring(1).name == "a"
        with pytest.raises(InputError, match="fewer tensors than were announced"):
            there.comfyui.next_ring(1)
        assert there.comfyui.next_request().number == 2
        mine.close()


def test_voices_answer_those_who_asked() -> None:
    with opened() as there:
        there.comfyui.ready(READY)
        mine = there.connect()
        assert isinstance(mine.next(), Ready)
        mine.client.send(a_run(number=1))
        there.comfyui.next_request()
        got: queue.Queue[Any] = queue.Queue()

        def ask() -> None:
            try:
                got.put(there.comfyui.voice(1, 0, 12))
            except (InputError, RunCancelled) as error:
                got.put(error)

        for _ in range(2):
            threading.Thread(target=ask).start()
            assert isinstance(mine.next(), WantVoice)
        mine.client.send(Voice(number=1, first=0, audio=Noise(actors=2).frames(0, 12)))
        assert torch.equal(got.get(timeout=SECONDS).audio, Noise(actors=2).frames(0, 12))
        # For another number of frames than was asked for: of another model, or wrong.
        mine.client.send(Voice(number=1, first=0, audio=Noise(actors=2).frames(0, 11)))
        assert "audio is float32" in str(got.get(timeout=SECONDS))
        threading.Thread(target=ask).start()
        assert isinstance(mine.next(), WantVoice)
        mine.client.send(Cancel(number=1))
        assert isinstance(got.get(timeout=SECONDS), RunCancelled)
        mine.close()


def test_a_flood_of_requests_ends_the_session_not_the_desk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comfyui_connection, "REQUESTS_WAITING", 20)
    with opened() as there:
        raw = there.raw()
        for number in range(21):
            raw.say(Release(number=number))
        answer = raw.answer()
        assert isinstance(answer, SessionEnded) and "more than 20 messages wait" in answer.reason
        mine = there.connect()
        mine.client.send(Release(number=99))
        assert there.comfyui.next_request().number == 99
        mine.close()
        raw.close()


def test_more_to_decode_than_there_is_room_for_ends_the_session() -> None:
    with opened(lambda message: False) as there:
        raw = there.raw()
        raw.say(open_video(1))
        assert "more blocks were sent to be decoded" in raw.answer().reason
        raw.close()
