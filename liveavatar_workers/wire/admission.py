"""Who may connect: clients whose public keys are listed, asked by libzmq at every handshake (ZAP, ZeroMQ's RFC 27).

Without this CURVE admits anyone who has the server's public key.
"""

from collections.abc import Collection
from typing import Any

import zmq

DOMAIN = b"liveavatar-workers"
HANDLER = "inproc://zeromq.zap.01"
"""Where libzmq asks, once in a context."""
VERSION, CURVE = b"1.0", b"CURVE"
ACCEPTED, REFUSED = (b"200", b"OK"), (b"400", b"this key is not listed")


class Admission:
    """Answers for the sockets of one context that `guard` has prepared; who polls calls `answer`."""

    def __init__(self, context: Any, keys: Collection[bytes]) -> None:
        self._keys = frozenset(keys)
        self.socket: Any = context.socket(zmq.REP)
        self.socket.linger = 0
        self.socket.bind(HANDLER)

    def guard(self, socket: Any) -> None:
        """Before it is bound. If nobody answered for this domain, libzmq would refuse every client."""
        socket.zap_domain = DOMAIN
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def answer(self) -> None:
        """One question that has come."""
        version, request, domain, _, _, mechanism, *credentials = self.socket.recv_multipart()
        known = (version, domain, mechanism) == (VERSION, DOMAIN, CURVE) and set(credentials) <= self._keys
        status, text = ACCEPTED if known and credentials else REFUSED
        self.socket.send_multipart([VERSION, request, status, text, b"", b""])
