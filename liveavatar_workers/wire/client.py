"""The side that connects. A connection that ends is not made again: who comes back has another session."""

import secrets
import time
from collections.abc import Callable
from typing import Any

import zmq

from liveavatar_runtime.errors import handled, on_failure, replaced

from ..keys import KeyPair
from ..message import Message
from ..messages import Beat, Hello, SessionEnded, Welcome
from ..version import VERSION
from .assembly import HEADER, Assembly
from .codec import MessageError, encode
from .endpoint import HANDSHAKE_SECONDS, ConnectionLost, Endpoint, Outgoing, event_of, tcp
from .server import SESSION_BYTES

SILENCE_SECONDS = 8.0
"""The server beats every second; after such a silence its program hangs or is out of reach."""
NEVER_MS = 24 * 3600 * 1000
"""Until a new connection is tried; the socket is closed long before. With none at all (-1) ZeroMQ would throw away what
has come and is not read yet when a connection ends, and the last words are why."""
CLOSED = "the other side closed the connection"
CONNECTION_EVENTS = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


class NobodyListens(ConnectionLost):
    """No program at the address."""


class Client(Endpoint):
    """Connected, and with a session. `kinds`: messages that the server may send.

    `received` is called in the client's thread with each of them, and with a MessageError for what cannot be read;
    `lost` once, with the reason, when the connection ends and `close` was not called. Raises ConnectionLost when
    nobody listens there, this side is refused, or what listens has another key. `silence`: seconds in which the
    server's program must be heard, and must take what is sent to it.
    """

    def __init__(
        self,
        address: tuple[str, int],
        pair: KeyPair,
        server_key: bytes,
        kinds: Any,
        silence: float = SILENCE_SECONDS,
    ) -> None:
        super().__init__(zmq.DEALER, silence)
        self._assembly, self._number = Assembly(kinds), secrets.token_bytes(SESSION_BYTES)
        self._where = "{}:{}".format(*address)
        self._received: Callable[[Any], None] | None = None
        self._lost: Callable[[str], None] | None = None
        self._heard = time.monotonic()
        self._use(pair, server_key)
        self._socket.ipv6 = ":" in address[0]
        self._socket.reconnect_ivl = NEVER_MS
        self._socket.connect_timeout = int(1000 * HANDSHAKE_SECONDS)
        self._monitor = self._socket.get_monitor_socket(CONNECTION_EVENTS)
        self._others.append(self._monitor)
        no_answer = f"no worker answers at {self._where}"
        with replaced(zmq.ZMQError, lambda error: NobodyListens(f"{no_answer}: {error}")), on_failure(self._end):
            self._socket.connect(tcp(*address))
            deadline = time.monotonic() + HANDSHAKE_SECONDS
            self._shake_hands(deadline)
            self._say_hello(deadline)

    def _shake_hands(self, deadline: float) -> None:
        connected = False
        while self._monitor.poll(1000 * max(0.0, deadline - time.monotonic())):
            event, _ = event_of(self._monitor)
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                return
            if event == zmq.EVENT_CONNECTED:
                connected = True
            elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                raise ConnectionLost(
                    f"the workers at {self._where} do not know this side's key; add its public key to their --clients "
                    "file and start them again"
                )
            elif connected:
                raise ConnectionLost(
                    f"what listens at {self._where} is not the workers with this key; check the address and the key"
                )
            else:
                raise NobodyListens(f"no worker answers at {self._where}")
        raise (ConnectionLost if connected else NobodyListens)(f"no worker answers at {self._where} in time")

    def _say_hello(self, deadline: float) -> None:
        self._socket.send_multipart([self._number, HEADER, encode(Hello(version=VERSION)).header])
        while self._socket.poll(1000 * max(0.0, deadline - time.monotonic())):
            answer = self._assembled(self._socket.recv_multipart(copy=False))
            if isinstance(answer, Welcome):
                return
            if isinstance(answer, SessionEnded):
                raise ConnectionLost(f"the workers at {self._where} refused: {answer.reason}")
        raise ConnectionLost(f"the workers at {self._where} did not answer in time")

    def start(self, received: Callable[[Any], None], lost: Callable[[str], None]) -> None:
        self._received, self._lost = received, lost
        self._heard = time.monotonic()
        self._thread.start()

    def send(self, message: Message) -> None:
        """From any thread. Raises ConnectionLost when the server is gone."""
        self._put(Outgoing((self._number,), encode(message)))

    def _assembled(self, frames: list[Any]) -> Any:
        """The message that is complete with this piece, or None."""
        number, *piece = map(memoryview, frames)
        if number != self._number:
            raise MessageError("a message is of another session")
        return self._assembly.add(piece)

    def _receive(self, frames: list[Any]) -> None:
        assert self._received is not None
        self._heard = time.monotonic()
        message = None
        with handled(MessageError, self._received):
            message = self._assembled(frames)
        if isinstance(message, SessionEnded):
            self.lose(message.reason)
        elif message is not None and not isinstance(message, Beat):
            self._received(message)

    def _tick(self) -> None:
        if time.monotonic() - self._heard > self._silence:
            self.lose(f"nothing was heard from the other side for {self._silence:g} s")

    def _event(self, socket: Any) -> None:
        event, _ = event_of(socket)
        if event == zmq.EVENT_DISCONNECTED:
            self._receive_rest()
            self.lose(CLOSED)

    def _receive_rest(self) -> None:
        """What came before the end; its last words are why it ends."""
        while not self._ended.is_set() and self._socket.poll(20):
            self._receive_all()

    def lose(self, why: str) -> None:
        """End the connection, in its thread, and tell why."""
        if not self._ended.is_set():
            self._ended.set()
            assert self._lost is not None
            self._lost(why)

    def _failed(self, error: BaseException) -> None:
        self.lose(f"{type(error).__name__}: {error}")

    def _stuck(self) -> None:
        self.lose(f"the other side took nothing of what was sent to it for {self._silence:g} s")
