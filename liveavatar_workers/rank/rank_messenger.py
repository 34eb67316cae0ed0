"""Messages between ranks that nobody has to wait for together: a thread for every direction of every pair.

Over gloo's point-to-point operations. Tensors of a GPU pass through the memory of the host, copied by the sending
thread in a stream of its own, so that sending overlaps with computing.
"""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from liveavatar_runtime.errors import handled

from ..message import Message
from ..messages import BetweenRanks
from ..wire.codec import Incoming, bytes_as_tensor, encode, read_header
from .ranks import FOREVER, OtherRankLost, Rank

MESSAGES_UNDER_WAY = 32
"""Messages to one rank that may wait to be sent; then the sender waits."""
HEADER_BYTES, LENGTH_BYTES = 16384, 8
"""A fixed size, so that the receiver can wait for it; in front the length of what it holds."""


@dataclass(frozen=True)
class QueuedMessage:
    """What one rank sends to another, and the moment in the sender's stream when its tensors are ready."""

    message: Message
    ready: "torch.cuda.Event | None" = None


Receive = Callable[[int, Any], None]
"""Called with the sender's rank, in a thread of its own."""


class RankMessenger:
    """All ranks open theirs together. `receive` gets every message; those of one rank come in their order."""

    def __init__(self, rank: Rank, receive: Receive) -> None:
        self._rank, self._receive = rank, receive
        self._group: Any = dist.new_group(backend="gloo", timeout=FOREVER)
        self._error: BaseException | None = None
        others = [number for number in range(rank.size) if number != rank.number]
        self._outgoing: dict[int, queue.Queue[QueuedMessage]] = {n: queue.Queue(MESSAGES_UNDER_WAY) for n in others}
        for number in others:
            for work in (self._send_all, self._receive_all):
                threading.Thread(target=self._guarded, args=(work, number), daemon=True, name=work.__name__).start()

    def send(self, to: int, message: Message) -> None:
        """Returns before the message has arrived; its tensors must not be written any more."""
        if to == self._rank.number:
            self._receive(to, message)
            return
        ready = None
        if self._rank.device.type == "cuda":
            ready = torch.cuda.Event()
            ready.record(torch.cuda.current_stream(self._rank.device))
        self._outgoing[to].put(QueuedMessage(message, ready))

    def check(self) -> None:
        """Raises OtherRankLost when another rank is gone."""
        if self._error is not None:
            raise OtherRankLost(f"the connection to another rank is lost: {self._error}") from self._error

    def _guarded(self, work: Callable[[int], None], number: int) -> None:
        # Whatever it is, the main thread has to know.
        with handled(BaseException, self._lost):
            work(number)

    def _lost(self, error: BaseException) -> None:
        self._error = error

    def _send_all(self, to: int) -> None:
        cuda = self._rank.device.type == "cuda"
        stream = torch.cuda.Stream(self._rank.device) if cuda else None
        while True:
            queued = self._outgoing[to].get()
            with torch.cuda.stream(stream):
                if stream is not None and queued.ready is not None:
                    stream.wait_event(queued.ready)
                sent = encode(queued.message)
            length = len(sent.header)
            assert length <= HEADER_BYTES - LENGTH_BYTES, f"a message's header has {length} bytes"
            buffer = torch.zeros(HEADER_BYTES, dtype=torch.uint8)
            content = length.to_bytes(LENGTH_BYTES, "big") + sent.header
            buffer[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            dist.send(buffer, to, group=self._group)
            for tensor in sent.tensors:
                if tensor.numel():
                    dist.send(bytes_as_tensor(tensor), to, group=self._group)

    def _receive_all(self, source: int) -> None:
        buffer = torch.empty(HEADER_BYTES, dtype=torch.uint8)
        while True:
            dist.recv(buffer, source, group=self._group)
            content = bytes(buffer.numpy())
            length = int.from_bytes(content[:LENGTH_BYTES], "big")
            incoming = Incoming()
            message = read_header(content[LENGTH_BYTES : LENGTH_BYTES + length], BetweenRanks, incoming)
            for tensor in incoming.tensors:
                if tensor.numel():
                    dist.recv(bytes_as_tensor(tensor), source, group=self._group)
            self._receive(source, message)
