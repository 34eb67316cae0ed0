"""The connection between ComfyUI and the workers: JSON and tensors over TCP, nothing that could carry code.

A message is a header (JSON, a table of the tensors in it included) and the tensors' bytes. Every size is checked
before memory is taken for it. Both sides prove that they know the token, which itself is never sent:

    worker  -> {"protocol", "version", "nonce"}
    ComfyUI -> {"protocol", "version", "nonce", "proof"}
    worker  -> {"proof"} or {"error"}

The token keeps others from using the workers; the contents are not encrypted.
"""

import contextlib
import hmac
import json
import math
import secrets
import socket
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, MachineError

PROTOCOL, VERSION = "liveavatar-workers", 1
LOOPBACK = "127.0.0.1"
TOKEN_VARIABLE, SHORTEST_TOKEN = "LIVEAVATAR_WORKERS_TOKEN", 16
"""Where a worker finds the token, if not in a file; and how many characters it must have."""
HELLO_BYTES = 1024
"""Largest header before the token is proved; such a message has no tensors."""
HEADER_BYTES = 4 * 2**20
BODY_BYTES = 16 * 2**30
HELLO_SECONDS = 10.0
CHUNK_BYTES = 2**20
"""What must get through within the timeout."""
MAX_TENSORS, MAX_DIMENSIONS = 4096, 8


def dtype_name(dtype: torch.dtype) -> str:
    """ "float32"."""
    return str(dtype).removeprefix("torch.")


DTYPES = {
    dtype_name(dtype): dtype
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.uint8)
}


class ChannelError(MachineError):
    """The connection ended, or the other side does not speak the protocol or does not know the token."""


class NobodyListens(ChannelError):
    """No worker at the address."""


@dataclass(frozen=True)
class Message:
    """`header["type"]` says what it is."""

    header: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)

    @property
    def type(self) -> str:
        return self.header.get("type", "")


class Channel:
    """One side of a connection; `send` may be called by several threads, `receive` by one.

    `timeout`: seconds of silence, or of a send that does not get on, after which the other side counts as lost.
    """

    def __init__(self, connection: socket.socket, timeout: float | None = None) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._sending = threading.Lock()
        self.set_timeout(timeout)

    def set_timeout(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._socket.settimeout(timeout)

    def send(self, header: dict[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
        """Blocks until the system has taken all; raises ChannelError when the other side is gone."""
        flat = {name: tensor.detach().to("cpu").contiguous() for name, tensor in (tensors or {}).items()}
        table = [[name, _dtype_name(tensor), list(tensor.shape)] for name, tensor in flat.items()]
        text = json.dumps({**header, "tensors": table}).encode()
        if len(text) > HEADER_BYTES:
            raise InputError(f"a message header of {len(text):,} bytes is above the limit of {HEADER_BYTES:,}")
        with self._sending:
            try:
                self._socket.sendall(struct.pack("!I", len(text)) + text)
                for view in map(_bytes_of, flat.values()):
                    for start in range(0, len(view), CHUNK_BYTES):
                        self._socket.sendall(view[start : start + CHUNK_BYTES])
            except OSError as error:
                raise ChannelError(f"the connection to the other side is lost: {error}") from error

    def receive(self, header_bytes: int = HEADER_BYTES, body_bytes: int = BODY_BYTES) -> Message:
        """The next message. Raises ChannelError after too long a silence, at the end, and for garbage."""
        try:
            (length,) = struct.unpack("!I", self._read(4))
            if length > header_bytes:
                raise ChannelError(f"a message header of {length:,} bytes was announced; allowed are {header_bytes:,}")
            header, table = _parse_header(bytes(self._read(length)))
            _check_sizes(table, body_bytes)
            tensors: dict[str, Tensor] = {}
            for name, dtype, shape in table:
                tensors[name] = torch.empty(shape, dtype=dtype)
                self._fill(_bytes_of(tensors[name]))
        except TimeoutError as error:
            raise ChannelError(f"nothing was heard from the other side for {self._timeout:g} s") from error
        except OSError as error:
            raise ChannelError(f"the connection to the other side is lost: {error}") from error
        return Message(header, tensors)

    def close(self) -> None:
        """Ends the connection; a thread that waits in `receive` gets a ChannelError."""
        # It may be closed already, by the other side or by another thread.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _read(self, count: int) -> bytearray:
        buffer = bytearray(count)
        self._fill(memoryview(buffer))
        return buffer

    def _fill(self, view: memoryview) -> None:
        while view:
            count = self._socket.recv_into(view)
            if count == 0:
                raise ChannelError("the other side closed the connection")
            view = view[count:]


def connect(host: str, port: int, token: str, timeout: float = HELLO_SECONDS) -> Channel:
    """ComfyUI's side. Raises ChannelError when nobody listens, or it is not a worker that knows the token."""
    try:
        connection = socket.create_connection((host, port), timeout)
    except OSError as error:
        raise NobodyListens(f"no worker answers at {host}:{port}: {error}") from error
    channel = Channel(connection, timeout)
    try:
        _prove_and_check(channel, token)
    except BaseException:
        channel.close()
        raise
    return channel


def _prove_and_check(channel: Channel, token: str) -> None:
    theirs = _receive_hello(channel)
    nonce = secrets.token_hex(32)
    proof = _proof(token, "client", str(theirs.get("nonce")), nonce)
    channel.send({"protocol": PROTOCOL, "version": VERSION, "nonce": nonce, "proof": proof})
    answer = channel.receive(HELLO_BYTES, 0).header
    if "error" in answer:
        raise ChannelError(f"the workers refused the connection: {answer['error']}")
    if not _equal(answer.get("proof"), _proof(token, "worker", str(theirs.get("nonce")), nonce)):
        raise ChannelError("what listens there does not know the token; check the address of the workers")


def welcome(connection: socket.socket, token: str, timeout: float = HELLO_SECONDS) -> Channel:
    """The worker's side of a new connection. Raises ChannelError when the other side is refused; it is then closed."""
    channel = Channel(connection, timeout)
    try:
        nonce = secrets.token_hex(32)
        channel.send({"protocol": PROTOCOL, "version": VERSION, "nonce": nonce})
        theirs = _receive_hello(channel)
        if not _equal(theirs.get("proof"), _proof(token, "client", nonce, str(theirs.get("nonce")))):
            channel.send({"error": "wrong token"})
            raise ChannelError("the other side does not know the token")
        channel.send({"proof": _proof(token, "worker", nonce, str(theirs.get("nonce")))})
    except BaseException:
        channel.close()
        raise
    return channel


def _receive_hello(channel: Channel) -> dict[str, Any]:
    hello = channel.receive(HELLO_BYTES, 0).header
    if hello.get("protocol") != PROTOCOL:
        raise ChannelError("the other side does not speak the workers' protocol; check the address")
    if hello.get("version") != VERSION:
        text = f"the other side speaks version {hello.get('version')}, this one {VERSION}; update the older of the two"
        channel.send({"protocol": PROTOCOL, "version": VERSION, "error": text})
        raise ChannelError(text)
    return hello


def _proof(token: str, role: str, worker_nonce: str, client_nonce: str) -> str:
    return hmac.new(token.encode(), f"{role}/{worker_nonce}/{client_nonce}".encode(), "sha256").hexdigest()


def _equal(given: Any, expected: str) -> bool:
    return isinstance(given, str) and hmac.compare_digest(given.encode(), expected.encode())


def _dtype_name(tensor: Tensor) -> str:
    name = dtype_name(tensor.dtype)
    if name not in DTYPES:
        raise InputError(f"tensors of {tensor.dtype} do not travel between processes; allowed are {', '.join(DTYPES)}")
    return name


def _bytes_of(tensor: Tensor) -> memoryview:
    raw: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(raw)


def _parse_header(text: bytes) -> tuple[dict[str, Any], list[tuple[str, torch.dtype, list[int]]]]:
    try:
        header = json.loads(text)
        table = [(str(name), DTYPES[dtype], shape) for name, dtype, shape in header.pop("tensors")]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ChannelError("the other side sent a header that is not of the workers' protocol") from error
    return header, table


def _check_sizes(table: list[tuple[str, torch.dtype, list[int]]], limit: int) -> None:
    if len(table) > MAX_TENSORS:
        raise ChannelError(f"a message of {len(table)} tensors was announced; allowed are {MAX_TENSORS}")
    for _, _, shape in table:
        sides_fit = isinstance(shape, list) and len(shape) <= MAX_DIMENSIONS
        if not sides_fit or not all(type(side) is int and 0 <= side <= limit for side in shape):
            raise ChannelError("the other side announced a tensor of an impossible shape")
    total = sum(math.prod(shape) * dtype.itemsize for _, dtype, shape in table)
    if total > limit:
        raise ChannelError(f"a message of {total:,} bytes was announced; allowed are {limit:,}")


class Listener:
    """Waits for ComfyUI at an address; port 0 takes a free one. Raises MachineError when the address is taken."""

    def __init__(self, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family)
        except OSError as error:
            raise MachineError(
                f"the workers cannot listen at {host}:{port}: {error.strerror}. Choose a free port and an address of "
                "this machine."
            ) from error
        self.port: int = self._socket.getsockname()[1]

    def accept(self) -> socket.socket:
        """The next connection, not yet welcomed."""
        return self._socket.accept()[0]

    def close(self) -> None:
        self._socket.close()


def parse_address(text: str) -> tuple[str, int]:
    """("host", port) of "host:port" or "[v6]:port". Raises InputError for anything else."""
    host, _, port = text.strip().rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and len(port) < 6) or not int(port) <= 65535:
        raise InputError(f"{text!r} is not an address of workers; write host:port, such as 192.168.1.2:29600")
    return host.strip("[]"), int(port)
