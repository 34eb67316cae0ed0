"""The connection between ComfyUI and the workers: who is let in, and what ends with whom."""

import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from wire_peers import CLOSED, LOOPBACK, OPENED, SECONDS, Connected, Listening, Relay, listening, wait_for

from liveavatar_runtime.errors import MachineError
from liveavatar_workers.keys import KeyPair
from liveavatar_workers.messages import Cancel, Hello, More, Ring, SessionEnded, ToComfyUI, Welcome
from liveavatar_workers.wire import endpoint
from liveavatar_workers.wire.assembly import HEADER
from liveavatar_workers.wire.client import Client, NobodyListens
from liveavatar_workers.wire.codec import encode
from liveavatar_workers.wire.endpoint import ConnectionLost
from liveavatar_workers.wire.server import SILENCE_SECONDS

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(15) + b"\x00" + bytes(31)
"""Of ZeroMQ, from a client with CURVE."""


@pytest.fixture
def there() -> Iterator[Listening]:
    with listening() as made:
        yield made


def ring(number: int, size: int = 4) -> Ring:
    return Ring(number=number, name="a", tensor=torch.full((size,), number, dtype=torch.int64))


def test_messages_go_both_ways(there: Listening) -> None:
    with contextlib.closing(there.connect()) as mine:
        assert there.next() == OPENED
        mine.client.send(ring(7))
        assert there.next().tensor.tolist() == [7] * 4
        there.server.send(ring(8), there.sessions[0])
        assert mine.next().tensor.tolist() == [8] * 4
    assert there.next() == CLOSED


def test_messages_of_several_threads_do_not_mix(there: Listening) -> None:
    with contextlib.closing(there.connect()) as mine:
        assert there.next() == OPENED
        senders = [
            threading.Thread(target=lambda n=n: [mine.client.send(ring(n, 5000)) for _ in range(20)]) for n in range(4)
        ]
        for sender in senders:
            sender.start()
        for _ in range(80):
            message = there.next()
            assert (message.tensor == message.number).all()
        for sender in senders:
            sender.join()


def test_a_client_whose_key_is_not_listed_is_refused(there: Listening) -> None:
    with pytest.raises(ConnectionLost, match="do not know this side's key; add its public key to their --clients"):
        there.connect(KeyPair.new())
    # The workers' public key is in every user's file, their own pair only with them: neither opens the door.
    with pytest.raises(ConnectionLost, match="do not know this side's key"):
        there.connect(there.pair)
    assert there.told.empty()


def test_a_client_without_a_key_is_refused(there: Listening) -> None:
    import zmq

    context = zmq.Context()
    plain = context.socket(zmq.DEALER)
    plain.connect("tcp://{}:{}".format(*there.address))
    plain.send_multipart([b"0123456789abcdef", HEADER, encode(Hello(version="0.1.0")).header])
    assert not plain.poll(500)
    context.destroy(0)
    assert there.told.empty()


def test_an_impostor_that_does_not_have_the_workers_secret_is_noticed(there: Listening) -> None:
    with pytest.raises(ConnectionLost, match="is not the workers with this key; check the address and the key"):
        there.connect(key=KeyPair.new().public)


def test_what_a_relay_has_heard_opens_nothing(there: Listening) -> None:
    relay = Relay(there.address)
    mine = Connected(Client((LOOPBACK, relay.port), there.client, there.pair.public, ToComfyUI))
    assert there.next() == OPENED
    mine.client.send(Cancel(number=77))
    assert there.next().number == 77
    heard = bytes(relay.sent)
    assert b"cancel" not in heard and there.client.secret not in heard and there.client.public not in heard
    # The same handshake and messages again, in a connection of its own: the server has drawn other numbers.
    with socket.create_connection(there.address) as again:
        again.settimeout(SECONDS)
        again.sendall(heard)
        while _received(again):
            pass
    # And once more within the connection that is open: it ends, and nothing of it is believed.
    assert relay.to_server is not None
    relay.to_server.sendall(heard[-60:])
    assert there.next() == CLOSED
    assert there.told.empty()
    mine.close()
    relay.close()


def _received(source: socket.socket) -> bytes:
    try:
        return source.recv(65536)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("count", [8, 64])
def test_connections_that_drip_bytes_lock_nobody_out(there: Listening, count: int) -> None:
    dripping = [socket.create_connection(there.address) for _ in range(count)]
    begun = threading.Event()
    stop = threading.Event()

    def drip() -> None:
        for byte in GREETING[:40]:
            for connection in dripping:
                with contextlib.suppress(OSError):
                    connection.sendall(bytes([byte]))
            begun.set()
            if stop.wait(0.05):
                return

    thread = threading.Thread(target=drip)
    thread.start()
    assert begun.wait(SECONDS)
    for _ in range(15):
        mine = there.connect()
        assert there.next() == OPENED
        mine.client.send(Cancel(number=1))
        assert there.next().number == 1
        mine.close()
        assert there.next() == CLOSED
    stop.set()
    thread.join()
    for connection in dripping:
        connection.close()


def test_a_connection_that_drips_is_dropped_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "HANDSHAKE_SECONDS", 0.3)
    with listening() as there, socket.create_connection(there.address) as stranger:
        stranger.settimeout(SECONDS)
        stranger.sendall(GREETING[:11])
        while stranger.recv(4096):
            pass


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n" * 10,
        b"\x00" * 200,
        os.urandom(4096),
        GREETING[:64].ljust(64, b"\x00") + b"\x04\xff" + bytes(255),
        GREETING[:64].ljust(64, b"\x00") + b"\x06" + struct.pack("!Q", 2**62),
    ],
    ids=["http", "zeros", "random", "a wrong hello", "a frame of 2^62 bytes"],
)
def test_garbage_is_refused_and_the_session_goes_on(there: Listening, garbage: bytes) -> None:
    with contextlib.closing(there.connect()) as mine:
        assert there.next() == OPENED
        with socket.create_connection(there.address) as stranger, contextlib.suppress(OSError):
            stranger.settimeout(SECONDS)
            stranger.sendall(garbage)
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(4096):
                pass
        mine.client.send(Cancel(number=5))
        assert there.next().number == 5


def test_another_version_is_refused_by_name(there: Listening) -> None:
    raw = there.raw()
    raw.say(Hello(version="9.9.9"))
    answer = raw.answer()
    assert isinstance(answer, SessionEnded)
    assert "this side has version 9.9.9 of liveavatar_workers, the workers have 0.1.0" in answer.reason
    raw.close()
    assert there.told.empty()


def test_one_that_comes_back_has_a_new_session(there: Listening) -> None:
    first = there.connect()
    assert there.next() == OPENED
    first.close()
    assert there.next() == CLOSED
    second = there.connect()
    assert there.next() == OPENED
    old, new = there.sessions
    assert old.number != new.number
    there.server.send(ring(1), old)
    there.server.send(ring(2), new)
    assert second.next().number == 2
    second.close()


def test_another_comfyui_takes_over_and_nothing_of_one_reaches_the_other(there: Listening) -> None:
    first = there.connect()
    assert there.next() == OPENED
    second = there.connect()
    assert [there.next(), there.next()] == [CLOSED, OPENED]
    assert first.why_lost() == "another ComfyUI uses these workers now"
    with pytest.raises(ConnectionLost):
        first.client.send(More(number=1, block=1))
    there.server.send(ring(1), there.sessions[0])
    there.server.send(ring(2), there.sessions[1])
    assert second.next().number == 2 and first.came.empty()
    second.client.send(Cancel(number=3))
    assert there.next().number == 3
    second.close()


def test_a_session_that_is_over_is_told_so_and_not_believed(there: Listening) -> None:
    old = there.raw().hello()
    assert there.next() == OPENED
    new = there.raw()
    new.number = b"another session!"
    new.hello()
    assert [there.next(), there.next()] == [CLOSED, OPENED]
    assert "another ComfyUI" in old.answer().reason
    # The old client, also with the new one's number: it has another connection.
    for number in (old.number, new.number):
        old.number = number
        old.say(Cancel(number=9))
        assert isinstance(old.answer(), SessionEnded)
    assert there.told.empty()
    for raw in (old, new):
        raw.close()


def test_a_client_that_is_killed_ends_its_session(there: Listening) -> None:
    program = f"""
import time
from liveavatar_workers.keys import KeyPair
from liveavatar_workers.messages import ToComfyUI
from liveavatar_workers.wire.client import Client
pair = KeyPair.of_secret(bytes.fromhex({there.client.secret.hex()!r}))
client = Client({there.address!r}, pair, bytes.fromhex({there.pair.public.hex()!r}), ToComfyUI)
client.start(print, print)
time.sleep(1000)
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[2])
    assert there.told.get(timeout=120) == OPENED
    process.kill()
    # Not by its silence, for which the server would wait longer than this.
    assert SECONDS < SILENCE_SECONDS and there.next() == CLOSED
    process.wait()


def test_a_server_that_ends_is_noticed_at_once_after_its_last_words(there: Listening) -> None:
    mine = there.connect()
    assert there.next() == OPENED
    for number in range(5):
        there.server.send(ring(number), there.sessions[0])
    assert [mine.next().number for _ in range(5)] == list(range(5))
    there.server.close()
    # After a silence it would say that nothing was heard.
    assert "closed the connection" in mine.why_lost()
    with pytest.raises(ConnectionLost):
        mine.client.send(Cancel(number=1))


def test_last_words_are_read_also_by_one_that_was_busy(there: Listening) -> None:
    client = Client(there.address, there.client, there.pair.public, ToComfyUI)
    assert there.next() == OPENED
    for number in range(3):
        there.server.send(ring(number), there.sessions[0])
    time.sleep(0.3)
    there.server.close()
    time.sleep(0.3)
    mine = Connected(client)
    assert "closed the connection" in mine.why_lost()
    assert [mine.next().number for _ in range(3)] == [0, 1, 2]


def test_a_server_whose_program_hangs_is_noticed(there: Listening) -> None:
    mine = Connected(Client(there.address, there.client, there.pair.public, ToComfyUI, silence=1.5))
    assert there.next() == OPENED
    # Its system still answers ZeroMQ's heartbeats; the thread that beats does not get on.
    stuck = threading.Event()
    there.server._events = type(there.server._told)(
        print, lambda _: (stuck.wait(SECONDS), None)[1], lambda: None, print
    )
    mine.client.send(Cancel(number=1))
    assert "nothing was heard from the other side for 1.5 s" in mine.why_lost()
    stuck.set()


def test_a_client_that_stops_reading_ends_and_takes_no_memory() -> None:
    with listening(silence=1.0) as there:
        raw = there.raw().hello()
        assert there.next() == OPENED
        large = ring(1, 2**20)
        before = psutil.Process().memory_info().rss
        sent = 0
        begin = time.monotonic()
        with contextlib.suppress(ConnectionLost):
            while there.told.empty() and time.monotonic() - begin < SECONDS:
                there.server.send(large, there.sessions[0])
                sent += 1
        assert there.next() == CLOSED
        # 8 MB each: those that wait hold one tensor, libzmq's copies of them are few.
        assert sent < 200 and psutil.Process().memory_info().rss - before < 700 * 2**20
        mine = there.connect()
        assert there.next() == OPENED
        mine.close()
        raw.close()


def test_nobody_listens() -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(NobodyListens, match=f"no worker answers at 127.0.0.1:{port}"):
        Client((LOOPBACK, port), KeyPair.new(), KeyPair.new().public, ToComfyUI)


def test_something_else_that_listens_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((LOOPBACK, 0)) as other:

        def answer() -> None:
            connection = other.accept()[0]
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 5)
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ConnectionLost, match="check the address and the key"):
            Client((LOOPBACK, other.getsockname()[1]), KeyPair.new(), KeyPair.new().public, ToComfyUI)
        thread.join()


def test_a_taken_port_is_named(there: Listening) -> None:
    port = there.server.port
    with pytest.raises(MachineError, match=f"cannot listen at 127.0.0.1:{port}: Address already in use"):
        with listening_at(port):
            pass


@contextlib.contextmanager
def listening_at(port: int) -> Iterator[None]:
    from liveavatar_workers.messages import ToWorkers
    from liveavatar_workers.wire.server import Server

    Server((LOOPBACK, port), KeyPair.new(), set(), ToWorkers).close()
    yield


def test_closing_leaves_no_thread_and_no_descriptor() -> None:
    def use() -> tuple[int, int]:
        with listening() as there:
            mine = there.connect()
            assert there.next() == OPENED
            mine.close()
        return threading.active_count(), psutil.Process().num_fds()

    use()
    before = use()
    for _ in range(3):
        use()
    wait_for(lambda: use() <= before)


def test_version_6_addresses() -> None:
    from liveavatar_workers.messages import ToWorkers
    from liveavatar_workers.wire.server import Events, Server

    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    pair, client = KeyPair.new(), KeyPair.new()
    server = Server(("::1", 0), pair, {client.public}, ToWorkers)
    server.start(Events(lambda _: None, print, lambda: None, print))
    mine = Client(("::1", server.port), client, pair.public, ToComfyUI | Welcome)
    mine.close()
    server.close()
