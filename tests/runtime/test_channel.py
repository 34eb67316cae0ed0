"""The connection between ComfyUI and the workers: what it carries, and what it refuses."""

import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import torch

from liveavatar_runtime.errors import InputError, MachineError
from liveavatar_runtime.parallel import channel as channels
from liveavatar_runtime.parallel.channel import Channel, ChannelError, Listener, connect, parse_address, welcome

TOKEN = "a token"


class Worker:
    """Welcomes one connection in a thread."""

    def __init__(self, token: str = TOKEN, timeout: float = 5.0) -> None:
        self.listener = Listener("127.0.0.1", 0)
        self.channel: Channel | None = None
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._serve, args=(token, timeout))
        self._thread.start()

    def _serve(self, token: str, timeout: float) -> None:
        try:
            self.channel = welcome(self.listener.accept(), token, timeout)
        except ChannelError as error:
            self.error = error

    def join(self) -> "Worker":
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self

    def close(self) -> None:
        self.join()
        self.listener.close()
        if self.channel is not None:
            self.channel.close()


@contextmanager
def worker(**options: Any) -> Iterator[Worker]:
    running = Worker(**options)
    try:
        yield running
    finally:
        running.close()


@contextmanager
def pair() -> Iterator[tuple[Channel, Channel]]:
    with worker() as other:
        mine = connect("127.0.0.1", other.listener.port, TOKEN)
        theirs = other.join().channel
        assert theirs is not None
        yield mine, theirs
        mine.close()


@contextmanager
def raw_pair() -> Iterator[tuple[socket.socket, Channel]]:
    """A bare socket that may send anything, and a channel that listens to it."""
    listener = Listener("127.0.0.1", 0)
    raw = socket.create_connection(("127.0.0.1", listener.port))
    channel = Channel(listener.accept(), 5)
    listener.close()
    with raw:
        yield raw, channel
    channel.close()


def framed(header: Any) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("!I", len(text)) + text


@pytest.mark.parametrize("dtype", channels.DTYPES.values(), ids=list(channels.DTYPES))
def test_tensors_of_every_dtype_arrive_bit_for_bit(dtype: torch.dtype) -> None:
    sent = {
        "plain": torch.arange(24).reshape(2, 3, 4).to(dtype),
        "strided": torch.arange(24).reshape(4, 6).to(dtype).T,
        "empty": torch.zeros(0, 5, dtype=dtype),
        "scalar": torch.tensor(3).to(dtype),
    }
    with pair() as (mine, theirs):
        mine.send({"type": "values", "number": 1.5}, sent)
        got = theirs.receive()
    assert got.header == {"type": "values", "number": 1.5}
    assert list(got.tensors) == list(sent)
    for name, tensor in sent.items():
        assert got.tensors[name].dtype == dtype and got.tensors[name].shape == tensor.shape
        assert bytes(channels._bytes_of(got.tensors[name])) == bytes(channels._bytes_of(tensor.contiguous()))


def test_messages_of_several_threads_do_not_mix() -> None:
    with pair() as (mine, theirs):
        senders = [
            threading.Thread(target=lambda n=n: [mine.send({"n": n}, {"t": torch.full((5000,), n)}) for _ in range(20)])
            for n in range(4)
        ]
        for sender in senders:
            sender.start()
        for _ in range(80):
            message = theirs.receive()
            assert (message.tensors["t"] == message.header["n"]).all()
        for sender in senders:
            sender.join()


def test_a_wrong_token_is_refused_on_both_sides() -> None:
    with worker(token="another") as other:
        with pytest.raises(ChannelError, match="wrong token"):
            connect("127.0.0.1", other.listener.port, TOKEN)
        assert "does not know the token" in str(other.join().error)


def test_an_impostor_that_does_not_know_the_token_is_noticed() -> None:
    listener = Listener("127.0.0.1", 0)

    def pretend() -> None:
        fake = Channel(listener.accept(), 5)
        fake.send({"protocol": channels.PROTOCOL, "version": channels.VERSION, "nonce": "0"})
        proof = fake.receive().header["proof"]
        fake.send({"proof": proof})

    thread = threading.Thread(target=pretend)
    thread.start()
    with pytest.raises(ChannelError, match="does not know the token"):
        connect("127.0.0.1", listener.port, TOKEN)
    thread.join()
    listener.close()


def test_the_token_itself_is_never_sent() -> None:
    listener = Listener("127.0.0.1", 0)
    heard: list[bytes] = []

    def listen() -> None:
        fake = listener.accept()
        fake.sendall(framed({"protocol": channels.PROTOCOL, "version": 1, "nonce": "00", "tensors": []}))
        heard.append(fake.recv(4096))
        fake.close()

    thread = threading.Thread(target=listen)
    thread.start()
    with pytest.raises(ChannelError, match="closed the connection"):
        connect("127.0.0.1", listener.port, TOKEN)
    thread.join()
    listener.close()
    assert b"proof" in heard[0] and TOKEN.encode() not in heard[0]


def test_another_version_is_named() -> None:
    with worker() as other:
        with socket.create_connection(("127.0.0.1", other.listener.port)) as raw:
            raw.sendall(framed({"protocol": channels.PROTOCOL, "version": 99, "nonce": "", "tensors": []}))
            assert "version 99, this one 1" in str(other.join().error)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "bytes was announced"),
        (struct.pack("!I", 2**32 - 1), "header of 4,294,967,295 bytes"),
        (framed(b"\xff\xfe not json"), "not of the workers' protocol"),
        (framed({"protocol": "other", "tensors": []}), "does not speak the workers' protocol"),
        (framed({"protocol": channels.PROTOCOL, "version": 1, "tensors": []}), "does not know the token"),
        (framed({"protocol": channels.PROTOCOL, "version": 1, "proof": 7, "tensors": []}), "does not know the token"),
        (framed({"tensors": [["t", "float32", [1]]]}), "impossible shape"),
        (framed({"tensors": [["t", "float32", []]]}), "4 bytes was announced; allowed are 0"),
        (struct.pack("!I", 100) + b"{", "closed the connection"),
    ],
)
def test_strangers_are_refused_before_they_cost_anything(sent: bytes, message: str) -> None:
    with worker() as other:
        with socket.create_connection(("127.0.0.1", other.listener.port)) as raw:
            # It may be refused, and the connection be closed, before this side has said all.
            with suppress(OSError):
                raw.sendall(sent)
                raw.shutdown(socket.SHUT_WR)
            error = other.join().error
    assert message in str(error)


def test_a_silent_stranger_is_dropped() -> None:
    with worker(timeout=0.2) as other:
        with socket.create_connection(("127.0.0.1", other.listener.port)):
            assert "nothing was heard from the other side for 0.2 s" in str(other.join().error)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([["t", "float32", [2**40, 2**40]]], "impossible shape"),
        ([["t", "float32", [2**33, 2**33]]], "bytes was announced"),
        ([["t", "float32", [-1]]], "impossible shape"),
        ([["t", "float32", [1.5]]], "impossible shape"),
        ([["t", "float32", [True]]], "impossible shape"),
        ([["t", "float32", [1] * 9]], "impossible shape"),
        ([["t", "float32", "1"]], "impossible shape"),
        ([["t", "object", [1]]], "not of the workers' protocol"),
        ([["t", "float32"]], "not of the workers' protocol"),
        ("no table", "not of the workers' protocol"),
        ([["t", "uint8", [1]]] * 5000, "5000 tensors was announced"),
    ],
)
def test_impossible_tensors_are_refused_before_memory_is_taken(table: Any, message: str) -> None:
    with raw_pair() as (raw, channel):
        raw.sendall(framed({"tensors": table}))
        with pytest.raises(ChannelError, match=message):
            channel.receive()


def test_a_truncated_tensor_ends_the_connection() -> None:
    with raw_pair() as (raw, channel):
        raw.sendall(framed({"tensors": [["t", "float32", [4]]]}) + b"1234567")
        raw.close()
        with pytest.raises(ChannelError, match="closed the connection"):
            channel.receive()


def test_deeply_nested_json_is_refused() -> None:
    with raw_pair() as (raw, channel):
        raw.sendall(framed(b"[" * 100_000))
        with pytest.raises(ChannelError, match="not of the workers' protocol"):
            channel.receive()


def test_only_known_dtypes_are_sent() -> None:
    with pair() as (mine, _), pytest.raises(InputError, match="complex64"):
        mine.send({}, {"t": torch.zeros(1, dtype=torch.complex64)})


def test_closing_wakes_a_waiting_reader() -> None:
    with pair() as (mine, theirs):
        closer = threading.Timer(0.1, theirs.close)
        closer.start()
        with pytest.raises(ChannelError):
            theirs.receive()
        closer.join()
        with pytest.raises(ChannelError):
            mine.receive()


def test_nobody_listens() -> None:
    listener = Listener("127.0.0.1", 0)
    listener.close()
    with pytest.raises(ChannelError, match=f"no worker answers at 127.0.0.1:{listener.port}"):
        connect("127.0.0.1", listener.port, TOKEN, timeout=1)


def test_a_taken_port_is_named() -> None:
    listener = Listener("127.0.0.1", 0)
    with pytest.raises(MachineError, match=f"127.0.0.1:{listener.port}: Address already in use"):
        Listener("127.0.0.1", listener.port)
    listener.close()


def test_addresses() -> None:
    assert parse_address(" 10.0.0.2:29600") == ("10.0.0.2", 29600)
    assert parse_address("[::1]:1") == ("::1", 1)
    for wrong in ("", "10.0.0.2", "host:", ":1", "host:70000", "host:x"):
        with pytest.raises(InputError, match="host:port"):
            parse_address(wrong)
