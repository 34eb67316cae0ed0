"""Both sides of a connection for tests: servers with keys, clients that say what they should, and some that do not."""

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import zmq

from liveavatar_workers.keys import KeyPair
from liveavatar_workers.message import Message
from liveavatar_workers.messages import Beat, Hello, ToComfyUI, ToWorkers
from liveavatar_workers.version import VERSION
from liveavatar_workers.wire.assembly import CHUNK, HEADER, Assembly, pieces
from liveavatar_workers.wire.client import Client
from liveavatar_workers.wire.codec import encode
from liveavatar_workers.wire.server import Events, Server, Session

LOOPBACK = "127.0.0.1"
SECONDS = 50.0
"""Generous: the machine may be busy."""
OPENED, CLOSED = "opened", "closed"


@dataclass
class Listening:
    """A server, and what it has told."""

    server: Server
    pair: KeyPair
    client: KeyPair
    told: "queue.Queue[Any]" = field(default_factory=queue.Queue)
    sessions: list[Session] = field(default_factory=list)

    @property
    def address(self) -> tuple[str, int]:
        return LOOPBACK, self.server.port

    def start(self) -> None:
        def opened(session: Session) -> None:
            self.sessions.append(session)
            self.told.put(OPENED)

        self.server.start(Events(opened, self.told.put, lambda: self.told.put(CLOSED), self.told.put))

    def next(self) -> Any:
        return self.told.get(timeout=SECONDS)

    def connect(self, pair: KeyPair | None = None, key: bytes | None = None) -> "Connected":
        return Connected(Client(self.address, pair or self.client, key or self.pair.public, ToComfyUI))

    def raw(self, pair: KeyPair | None = None) -> "RawClient":
        return RawClient(self.address, pair or self.client, self.pair.public)


@contextmanager
def listening(kinds: Any = ToWorkers, **options: Any) -> Iterator[Listening]:
    pair, client = KeyPair.new(), KeyPair.new()
    made = Listening(Server((LOOPBACK, 0), pair, {client.public}, kinds, **options), pair, client)
    made.start()
    try:
        yield made
    finally:
        made.server.close()


class Connected:
    """A client, and what came."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.came: queue.Queue[Any] = queue.Queue()
        self.lost: queue.Queue[str] = queue.Queue()
        client.start(self.came.put, self.lost.put)

    def next(self) -> Any:
        return self.came.get(timeout=SECONDS)

    def why_lost(self) -> str:
        return self.lost.get(timeout=SECONDS)

    def close(self) -> None:
        self.client.close()


class RawClient:
    """One that knows the keys and may send anything."""

    def __init__(self, address: tuple[str, int], pair: KeyPair, key: bytes) -> None:
        self._context: Any = zmq.Context()
        self.socket: Any = self._context.socket(zmq.DEALER)
        self.socket.linger, self.socket.rcvhwm = 0, 4
        self.socket.curve_publickey, self.socket.curve_secretkey, self.socket.curve_serverkey = (
            pair.public,
            pair.secret,
            key,
        )
        self.socket.connect("tcp://{}:{}".format(*address))
        self._assembly = Assembly(ToComfyUI)
        self.number = b"0123456789abcdef"

    def hello(self) -> "RawClient":
        """Begin a session."""
        self.say(Hello(version=VERSION))
        assert self.answer().version == VERSION
        return self

    def send(self, *parts: Any) -> None:
        self.socket.send_multipart([self.number, *parts])

    def say(self, message: Message) -> None:
        for piece in pieces(encode(message)):
            self.send(*piece)

    def say_header(self, header: dict[str, Any], *chunks: bytes) -> None:
        """A message of any content."""
        self.send(HEADER, msgspec.msgpack.encode(header))
        for chunk in chunks:
            self.send(CHUNK, chunk)

    def answer(self) -> Any:
        """The next message that is not a beat. Raises TimeoutError."""
        deadline = time.monotonic() + SECONDS
        while self.socket.poll(int(1000 * max(0.0, deadline - time.monotonic()))):
            _, *piece = self.socket.recv_multipart()
            message = self._assembly.add([memoryview(frame) for frame in piece])
            if message is not None and not isinstance(message, Beat):
                return message
        raise TimeoutError("no answer came")

    def close(self) -> None:
        self._context.destroy(0)


class Relay:
    """A stranger between the two sides: passes on what both send, and keeps it."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._listener = socket.create_server((LOOPBACK, 0))
        self._target = target
        self.port: int = self._listener.getsockname()[1]
        self.sent = bytearray()
        """What the client has sent."""
        self.to_server: socket.socket | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        near = self._listener.accept()[0]
        self.to_server = far = socket.create_connection(self._target)
        threading.Thread(target=self._pass, args=(far, near, bytearray()), daemon=True).start()
        self._pass(near, far, self.sent)

    def _pass(self, source: socket.socket, target: socket.socket, kept: bytearray) -> None:
        while content := _received(source):
            kept += content
            target.sendall(content)

    def close(self) -> None:
        self._listener.close()
        if self.to_server is not None:
            self.to_server.close()


def _received(source: socket.socket) -> bytes:
    try:
        return source.recv(65536)
    except OSError:
        return b""


def wait_for(condition: Callable[[], Any], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {seconds} s"
        time.sleep(0.01)
