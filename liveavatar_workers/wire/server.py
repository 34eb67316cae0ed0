"""The side that listens: of all listed clients that may come, one has the session, the last that said hello."""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import zmq

from liveavatar_runtime.errors import MachineError, replaced

from ..keys import KeyPair
from ..message import Message
from ..messages import Beat, Hello, Malformed, SessionEnded, Welcome
from ..version import VERSION
from .admission import Admission
from .assembly import CHUNK, HEADER, Assembly
from .codec import MessageError, encode
from .endpoint import Endpoint, Outgoing, event_of, tcp

BEAT_SECONDS = 1.0
SILENCE_SECONDS = 60.0
"""Longest silence of a client; one whose computer sleeps for a moment stays."""
PROBE_SECONDS = 0.3
"""After some connection has ended: how long the session's is tried at every turn, to see whether it was that one."""
SESSION_BYTES = 16


@dataclass(frozen=True)
class Session:
    """Who has it: the connection's name at the router, and the number that the client drew."""

    route: bytes
    number: bytes

    def outgoing(self, message: Message) -> Outgoing:
        return Outgoing((self.route, self.number), encode(message))


@dataclass(frozen=True)
class Events:
    """What a server tells, in its thread, which must not be kept waiting: a session has begun; a message of it; it has
    ended; the thread ends, because of an error in this program."""

    opened: Callable[[Session], None]
    received: Callable[[Any], None]
    closed: Callable[[], None]
    failed: Callable[[BaseException], None]


class Server(Endpoint):
    """Listens from `start` on. `kinds`: messages that clients may send; `clients`: their public keys.

    `silence`: seconds in which the client's system must be heard, and must take what is sent to it.
    Raises MachineError when the address is taken; port 0 takes a free one.
    """

    def __init__(
        self,
        address: tuple[str, int],
        pair: KeyPair,
        clients: Collection[bytes],
        kinds: Any,
        silence: float = SILENCE_SECONDS,
    ) -> None:
        super().__init__(zmq.ROUTER, silence)
        self._kinds = kinds
        self._session: Session | None = None
        self._assembly = Assembly(kinds)
        self._events: Events | None = None
        self._next_beat = self._probe_until = 0.0
        self._use(pair, None)
        self._socket.router_mandatory = True
        self._admission = Admission(self._context, clients)
        self._admission.guard(self._socket)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._others += [self._admission.socket, self._monitor]
        self.port = self._bind(*address)

    def _bind(self, host: str, port: int) -> int:
        self._socket.ipv6 = ":" in host

        def refused(error: zmq.ZMQError) -> MachineError:
            self._end()
            return MachineError(
                f"the workers cannot listen at {host}:{port}: {zmq.strerror(error.errno or 0)}. Choose a free port and "
                "an address of this machine."
            )

        with replaced(zmq.ZMQError, refused):
            self._socket.bind(tcp(host, port or "*"))
        return int(self._socket.last_endpoint.decode().rstrip("\0").rpartition(":")[2])

    def start(self, events: Events) -> None:
        self._events = events
        self._thread.start()

    def send(self, message: Message, session: Session) -> None:
        """From any thread; what is for a session that is not open any more goes nowhere. Raises ConnectionLost when
        the client takes nothing for too long."""
        if session == self._session:
            self._put(session.outgoing(message))

    def offer(self, message: Message, session: Session) -> bool:
        """Like `send`, but does not wait: whether there was room."""
        return session != self._session or self._offer(session.outgoing(message))

    def end_session(self, reason: str) -> None:
        """The client is told why. For `Events.received` only: in the server's thread."""
        if self._session is not None:
            self._answer(self._session, SessionEnded(reason=reason))
            self._close_session()

    def _receive(self, frames: list[Any]) -> None:
        route, number, *piece = map(memoryview, frames if len(frames) > 1 else [*frames, b""])
        sender = Session(bytes(route), bytes(number[:SESSION_BYTES]))
        mine = sender == self._session
        try:
            if len(number) != SESSION_BYTES:
                raise MessageError(f"a message has no number of a session, which is {SESSION_BYTES} bytes")
            if not mine and piece and piece[0] == CHUNK:
                # Of a message that has been refused already.
                return
            assembly = self._assembly if mine else Assembly(self._kinds)
            message = assembly.add(piece)
        except MessageError as error:
            self._answer(sender, Malformed(reason=str(error)))
            return
        if isinstance(message, Hello):
            self._welcome(sender, message)
        elif not mine:
            self._answer(sender, SessionEnded(reason="this session is not open, or another ComfyUI has begun one"))
        elif message is not None:
            self._told.received(message)

    def _welcome(self, sender: Session, hello: Hello) -> None:
        if hello.version != VERSION:
            self._answer(
                sender,
                SessionEnded(
                    reason=f"this side has version {hello.version} of liveavatar_workers, the workers have {VERSION}; "
                    "install the same version on both"
                ),
            )
            return
        self.end_session("another ComfyUI uses these workers now")
        self._session, self._next_beat = sender, 0.0
        self._assembly = Assembly(self._kinds)
        self._answer(sender, Welcome(version=VERSION))
        self._told.opened(sender)

    @property
    def _told(self) -> Events:
        assert self._events is not None
        return self._events

    def _close_session(self) -> None:
        self._session = None
        # What was for the client that is gone is for nobody.
        self._give_up()
        self._told.closed()

    def _answer(self, to: Session, message: Message) -> None:
        """At once, in this thread; not if the peer has no room for it, which has other news under way then."""
        self._try_to_send([to.route, to.number, HEADER, encode(message).header])

    def _tick(self) -> None:
        now = time.monotonic()
        if self._session is not None and (now >= self._next_beat or now < self._probe_until):
            self._next_beat = now + BEAT_SECONDS
            self._answer(self._session, Beat())

    def _event(self, socket: Any) -> None:
        if socket is self._monitor:
            event_of(socket)
            self._probe_until = time.monotonic() + PROBE_SECONDS
            # The end of the connection is on its way to the router.
            self._notify()
        else:
            self._admission.answer()

    def _stuck(self) -> None:
        self.end_session("this side took nothing of what was sent to it for too long")

    def _failed(self, error: BaseException) -> None:
        self._told.failed(error)

    def _unreachable(self, route: bytes) -> None:
        if self._session is not None and self._session.route == route:
            self._close_session()
