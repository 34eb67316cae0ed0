"""A ZeroMQ socket and the thread that owns it: no other one touches it, and nobody waits for the network in it."""

import contextlib
import queue
import socket as sockets
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from liveavatar_runtime.errors import MachineError

from ..keys import KeyPair
from .assembly import pieces
from .codec import HEADER_BYTES, Encoded

HANDSHAKE_SECONDS = 10.0
"""In which a connection must have proved its key; one that drips bytes is dropped after it."""
HEARTBEAT_SECONDS = 2.0
PIECES_UNDER_WAY = 16
"""Pieces of messages to or from one peer that libzmq holds; then its sender waits."""
MESSAGES_WAITING = 32
"""Messages that wait for the thread; then `send` waits."""
RETRY_MS, TICK_MS = 5, 100


class ConnectionLost(MachineError):
    """The other side is gone, was refused, or does not take what is sent to it."""


@dataclass(frozen=True)
class Outgoing:
    """A message, and the frames in front of each of its pieces, which say for whom it is."""

    route: tuple[bytes, ...]
    message: Encoded


class Endpoint:
    """What both sides of a connection have in common. A subclass makes the socket and says what to do with what comes:
    its `_receive`, `_tick` and `_event` run in the thread."""

    def __init__(self, kind: int, silence: float) -> None:
        self._context: Any = zmq.Context()
        self._socket: Any = self._context.socket(kind)
        self._socket.linger = 0
        self._socket.sndhwm = self._socket.rcvhwm = PIECES_UNDER_WAY
        self._socket.maxmsgsize = HEADER_BYTES
        self._socket.handshake_ivl = int(1000 * HANDSHAKE_SECONDS)
        self._socket.heartbeat_ivl = int(1000 * HEARTBEAT_SECONDS)
        self._socket.heartbeat_timeout = int(1000 * silence)
        self._silence = silence
        self._outgoing: queue.Queue[Outgoing] = queue.Queue(MESSAGES_WAITING)
        self._head: Iterator[tuple[bytes | memoryview, ...]] = iter(())
        """Pieces of the message that is being sent, with their routes."""
        self._piece: tuple[bytes | memoryview, ...] | None = None
        self._sent = 0.0
        self._wake, self._woken = sockets.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name=type(self).__name__)
        self._others: list[Any] = []
        """Sockets beside it that are polled."""

    def _use(self, pair: KeyPair, server_key: bytes | None) -> None:
        """Keys of this side; a server has no `server_key`."""
        self._socket.curve_publickey, self._socket.curve_secretkey = pair.public, pair.secret
        if server_key is None:
            self._socket.curve_server = True
        else:
            self._socket.curve_serverkey = server_key

    def _put(self, outgoing: Outgoing) -> None:
        """To the thread. Raises ConnectionLost when it does not get rid of what is before it for too long."""
        if threading.current_thread() is self._thread:
            if not self._offer(outgoing):
                self._stuck()
            return
        deadline = time.monotonic() + self._silence
        while not self._ended.is_set():
            with contextlib.suppress(queue.Full):
                self._outgoing.put(outgoing, timeout=TICK_MS / 1000)
                self._notify()
                return
            if time.monotonic() > deadline:
                raise ConnectionLost(f"the other side took nothing of what was sent to it for {self._silence:g} s")
        raise ConnectionLost("the connection was closed")

    def _offer(self, outgoing: Outgoing) -> bool:
        """To the thread, if there is room."""
        with contextlib.suppress(queue.Full):
            self._outgoing.put_nowait(outgoing)
            self._notify()
            return True
        return False

    def _notify(self) -> None:
        # It is full when the thread has been woken already, and closed when it has ended.
        with contextlib.suppress(OSError):
            self._wake.send(b"!")

    def close(self) -> None:
        """Returns when the thread has ended; may be called by several, and again."""
        self._ended.set()
        self._notify()
        if self._thread.ident is None:
            self._end()
        elif threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._woken, zmq.POLLIN)
        for socket in (self._socket, *self._others):
            poller.register(socket, zmq.POLLIN)
        try:
            while not self._ended.is_set():
                waiting = self._piece is not None
                ready = dict(poller.poll(RETRY_MS if waiting else TICK_MS))
                if self._woken.fileno() in ready:
                    with contextlib.suppress(BlockingIOError):
                        self._woken.recv(4096)
                # What has come before a connection ended is read before its end is.
                if self._socket in ready:
                    self._receive_all()
                for socket in self._others:
                    if socket in ready:
                        self._event(socket)
                self._send_all()
                self._tick()
        except BaseException as error:
            self._failed(error)
            raise
        finally:
            self._end()

    def _receive_all(self) -> None:
        # Not for ever: others are waiting too.
        with contextlib.suppress(zmq.Again):
            for _ in range(PIECES_UNDER_WAY):
                self._receive(self._socket.recv_multipart(zmq.NOBLOCK, copy=False))

    def _send_all(self) -> None:
        while not self._ended.is_set() and self._next_piece() is not None:
            piece = self._piece
            if piece is None or not self._try_to_send(piece):
                if time.monotonic() - self._sent > self._silence:
                    self._give_up()
                    self._stuck()
                return
            self._sent = time.monotonic()
            # It may have been given up because its receiver is gone.
            if self._piece is piece:
                self._piece = None

    def _next_piece(self) -> tuple[bytes | memoryview, ...] | None:
        while self._piece is None:
            self._piece = next(self._head, None)
            if self._piece is None:
                outgoing = None
                with contextlib.suppress(queue.Empty):
                    outgoing = self._outgoing.get_nowait()
                if outgoing is None:
                    return None
                self._head = ((*outgoing.route, *piece) for piece in pieces(outgoing.message))
                self._sent = time.monotonic()
        return self._piece

    def _give_up(self) -> None:
        """Nothing that waits is sent any more."""
        self._head, self._piece = iter(()), None
        with contextlib.suppress(queue.Empty):
            while True:
                self._outgoing.get_nowait()

    def _try_to_send(self, frames: Sequence[bytes | memoryview]) -> bool:
        """Whether libzmq has taken a piece, or the one for whom it is is gone."""
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._unreachable(bytes(frames[0]))
        return True

    def _end(self) -> None:
        self._ended.set()
        for socket in (*self._others, self._socket):
            socket.close(0)
        self._context.destroy(0)
        self._wake.close()
        self._woken.close()

    def _receive(self, frames: list[Any]) -> None:
        raise NotImplementedError

    def _event(self, socket: Any) -> None:
        raise NotImplementedError

    def _tick(self) -> None:
        return None

    def _failed(self, error: BaseException) -> None:
        """The thread ends because of an error in this program."""
        raise NotImplementedError

    def _stuck(self) -> None:
        """Nothing could be sent for too long; it is given up."""
        raise NotImplementedError

    def _unreachable(self, route: bytes) -> None:
        """The peer of a route is gone."""
        return


def event_of(monitor: Any) -> tuple[int, int]:
    """An event of a socket's connections, and its value."""
    message = recv_monitor_message(monitor, zmq.NOBLOCK)
    return int(message["event"]), int(message["value"])


def tcp(host: str, port: int | str) -> str:
    """For ZeroMQ; addresses of version 6 in brackets."""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
