"""What every worker process has of its group: its rank, what rank 0 shares with all, and the reports of failures."""

import contextlib
import socket
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store

from liveavatar_runtime.errors import MachineError

from ..messages import Failure, Shared
from ..wire.codec import Encoded, Incoming, bytes_as_tensor, encode, read_header

BEAT_SECONDS = 0.5
POLL_SECONDS = 0.05
"""Between two looks into the store."""
LOST_SECONDS = 6.0
"""Silence after which a rank counts as lost."""
SUSPECT_SECONDS = 3.0
"""The same once another rank has failed because a connection was closed."""
FIRST_STALL_SECONDS, SHORTEST_STALL_SECONDS, STALL_FACTOR = 120.0, 8.0, 10
FOREVER = timedelta(days=7)
"""For collectives in which ranks wait for ComfyUI; the watch finds failures, not their timeout."""
NOTICE_SECONDS = 3.0
"""How long a failed rank waits for rank 0 to take notice of it before it exits."""
LINGER_SECONDS = LOST_SECONDS + NOTICE_SECONDS
"""How long rank 0, and ranks that failed because of another one, stay, so that the cause is found and told."""


class StallDetector:
    """Notices when the main thread of a busy rank gets no further.

    How long a layer takes depends on the machine, so the limit is a multiple of the longest time seen so far, once a
    first block was finished; `limit` fixes it instead.
    """

    def __init__(self, limit: float | None = None) -> None:
        self._limit = limit
        self._longest: float = 0.0
        self._busy = self._settled = False
        self._last = time.monotonic()

    def mark(self) -> None:
        """The main thread got on."""
        now = time.monotonic()
        if self._busy:
            self._longest = max(self._longest, now - self._last)
        self._last = now

    def settle(self) -> None:
        """From now on the longest time seen tells how long things take on this machine."""
        self._settled = True

    def working(self) -> contextlib.AbstractContextManager[None]:
        """In here the main thread must get on."""
        return self._for_now(busy=True)

    def waiting(self) -> contextlib.AbstractContextManager[None]:
        """In here it waits for others, as long as they take."""
        return self._for_now(busy=False)

    @contextlib.contextmanager
    def _for_now(self, busy: bool) -> Iterator[None]:
        before = self._busy
        self._last, self._busy = time.monotonic(), busy
        try:
            yield
        finally:
            self._last, self._busy = time.monotonic(), before

    @property
    def limit(self) -> float:
        """Seconds without progress that count as a hang."""
        if self._limit is not None:
            return self._limit
        return max(SHORTEST_STALL_SECONDS, STALL_FACTOR * self._longest) if self._settled else FIRST_STALL_SECONDS

    @property
    def stalled(self) -> bool:
        return self._busy and time.monotonic() - self._last > self.limit


@dataclass(frozen=True)
class Rank:
    """This process in its group. Methods that all ranks must call together say so; one that decodes calls none.

    `size`: ranks that compute the transformer together; `decoders`: ranks behind them, not in their process group,
    which hold the VAE (none or one).
    """

    number: int
    size: int
    device: torch.device
    store: Store
    stall_detector: StallDetector
    decoders: int = 0

    @property
    def total(self) -> int:
        return self.size + self.decoders

    @property
    def decodes(self) -> bool:
        return self.number >= self.size

    @property
    def where(self) -> str:
        return f"{self.device} on {socket.gethostname()}"

    @property
    def leads(self) -> bool:
        return self.number == 0

    def join(self, timeout: float) -> None:
        """Wait for all ranks, then connect those that compute together.

        Raises MachineError naming those that did not arrive in time.
        """
        self.store.set(f"arrived/{self.number}", "")
        deadline = time.monotonic() + timeout
        while missing := [n for n in range(self.total) if not self.store.check([f"arrived/{n}"])]:
            if time.monotonic() > deadline:
                names = ", ".join(map(str, missing))
                raise MachineError(
                    f"rank {names} of {self.total} did not arrive within {timeout:g} s; look at its output, or give "
                    "slow machines more time (--join-timeout)"
                )
            time.sleep(POLL_SECONDS)
        if self.decodes:
            return
        backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
        store = PrefixStore("group", self.store)
        dist.init_process_group(backend, store=store, rank=self.number, world_size=self.size, timeout=FOREVER)

    def wait_for(self, *keys: str) -> None:
        """Until all of them are in the store."""
        # Asked for again and again, because a waiting request would keep the watch's heartbeats waiting too.
        while not self.store.check(list(keys)):
            time.sleep(POLL_SECONDS)

    def share(self, message: Any) -> Any:
        """The message (one of `Shared`) that rank 0 gives, on every rank. All ranks call it together."""
        if self.size == 1:
            return message
        sent = encode(message) if self.leads else Encoded(b"", [])
        header, tensors = self._share_bytes(sent.header), sent.tensors
        if not self.leads:
            incoming = Incoming()
            message = read_header(header, Shared, incoming)
            tensors = incoming.tensors
        for tensor in tensors:
            dist.broadcast(bytes_as_tensor(tensor), src=0)
        return message

    def _share_bytes(self, content: bytes) -> bytes:
        length = torch.tensor([len(content)])
        dist.broadcast(length, src=0)
        buffer = torch.empty(int(length), dtype=torch.uint8)
        if self.leads:
            buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        dist.broadcast(buffer, src=0)
        return bytes(buffer.numpy())

    def agree(self, flag: bool) -> bool:
        """Rank 0's flag, on every rank. All ranks call it together."""
        vote: Tensor = torch.tensor([flag])
        if self.size > 1:
            dist.broadcast(vote, src=0)
        return bool(vote)

    def failure(self, error: BaseException) -> Failure:
        trace = "".join(traceback.format_exception(error))
        text = f"{type(error).__name__}: {error}"
        return self.failed(text, trace, consequence=is_about_another_rank(error))

    def failed(self, text: str, trace: str = "", consequence: bool = False) -> Failure:
        """A failure of this rank."""
        return Failure(rank=self.number, where=self.where, message=text, trace=trace, consequence=consequence)

    def report(self, failure: Failure) -> None:
        """Let rank 0 know, and wait until it does."""
        order = self.file_report(failure)
        deadline = time.monotonic() + NOTICE_SECONDS
        while not self.store.check([f"noticed/{order}"]) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def file_report(self, failure: Failure) -> int:
        """Let rank 0 know; returns the number of the report."""
        order = self.store.add("failures", 1)
        self.store.set(f"failure/{order}", msgspec.json.encode(failure).decode())
        return order


class OtherRankLost(RuntimeError):
    """This rank cannot go on because another one is gone."""


def is_about_another_rank(error: BaseException) -> bool:
    """Whether a rank failed only because another one is gone: then an operation of torch.distributed raises."""
    if isinstance(error, OtherRankLost):
        return True
    if not isinstance(error, RuntimeError) or isinstance(error, torch.OutOfMemoryError):
        return False
    inside = Path(dist.__file__).parent
    return any(Path(frame.filename).is_relative_to(inside) for frame in traceback.extract_tb(error.__traceback__))
