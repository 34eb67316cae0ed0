"""Rank 0's desk and the ComfyUIs that come and go there."""

import queue
import threading
from collections.abc import Callable

from liveavatar_runtime.parallel.channel import LOOPBACK, Listener, Message, connect
from liveavatar_runtime.parallel.decoding import CLOSE, DECODE, OPEN
from liveavatar_runtime.parallel.desk import Desk

TOKEN = "0123456789abcdef"
SECONDS = 10.0


def open_desk(decode: Callable[[Message], None]) -> int:
    """A desk that passes requests to decode on; returns its port."""
    listener = Listener(LOOPBACK, 0)
    desk = Desk(listener, TOKEN)
    desk.pass_on_decoding(decode)
    desk.open()
    return listener.port


def test_a_comfyui_that_goes_ends_its_own_decoding_only() -> None:
    passed_on: queue.Queue[tuple[str, int]] = queue.Queue()
    going, may_end = threading.Event(), threading.Event()

    def decode(message: Message) -> None:
        if message.type == CLOSE:
            # So slow that another ComfyUI comes meanwhile.
            going.set()
            assert may_end.wait(SECONDS)
        passed_on.put((message.type, message.header["number"]))

    port = open_desk(decode)
    first = connect(LOOPBACK, port, TOKEN)
    first.send({"type": OPEN, "number": 1})
    assert passed_on.get(timeout=SECONDS) == (OPEN, 1)
    first.close()
    assert going.wait(SECONDS)
    second = connect(LOOPBACK, port, TOKEN)
    second.send({"type": OPEN, "number": 2})
    assert passed_on.get(timeout=SECONDS) == (OPEN, 2)
    may_end.set()
    assert passed_on.get(timeout=SECONDS) == (CLOSE, 1)
    second.send({"type": DECODE, "number": 2})
    assert passed_on.get(timeout=SECONDS) == (DECODE, 2)
    second.close()
    assert passed_on.get(timeout=SECONDS) == (CLOSE, 2)


def test_one_that_takes_the_desk_over_ends_what_was_decoded() -> None:
    passed_on: queue.Queue[tuple[str, int]] = queue.Queue()
    port = open_desk(lambda message: passed_on.put((message.type, message.header["number"])))
    first = connect(LOOPBACK, port, TOKEN)
    first.send({"type": OPEN, "number": 1})
    assert passed_on.get(timeout=SECONDS) == (OPEN, 1)
    connect(LOOPBACK, port, TOKEN)
    assert passed_on.get(timeout=SECONDS) == (CLOSE, 1)
