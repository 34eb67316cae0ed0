"""What every worker process has of its group: its rank, the messages of rank 0, and the watch over all ranks.

The watch is a thread with its own connection to a store (a key-value server). Every rank counts a heartbeat there and
reports its failures; rank 0 reads both. A rank fails when it raises, when its main thread gets no further, when its
heartbeat stops, or when it never arrives.
"""

import contextlib
import json
import math
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store

from ..errors import MachineError
from .channel import DTYPES, Message, dtype_name
from .failures import Failure

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


class Progress:
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

    @contextlib.contextmanager
    def expected(self, expected: bool) -> Iterator[None]:
        """Whether progress is to be seen meanwhile."""
        before = self._busy
        self._last, self._busy = time.monotonic(), expected
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
    progress: Progress
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

    def share(self, message: Message | None) -> Message:
        """The message that rank 0 gives, on every rank. All ranks call it together."""
        if self.size == 1:
            assert message is not None
            return message
        tensors = message.tensors if message else {}
        table = [[name, dtype_name(t.dtype), list(t.shape)] for name, t in tensors.items()]
        header = self._share_bytes(json.dumps([message and message.header, table]).encode())
        shared, table = json.loads(header)
        got = {name: tensors.get(name, torch.empty(shape, dtype=DTYPES[dtype])) for name, dtype, shape in table}
        for name in got:
            got[name] = got[name].contiguous()
            dist.broadcast(got[name].reshape(-1).view(torch.uint8), src=0)
        return Message(shared, got)

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
        return Failure(self.number, self.where, text, trace, consequence=_is_about_another_rank(error))

    def report(self, failure: Failure) -> None:
        """Let rank 0 know, and wait until it does."""
        order = self.post(failure)
        deadline = time.monotonic() + NOTICE_SECONDS
        while not self.store.check([f"noticed/{order}"]) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def post(self, failure: Failure) -> int:
        """Let rank 0 know; returns the number of the report."""
        order = self.store.add("failures", 1)
        self.store.set(f"failure/{order}", json.dumps(asdict(failure)))
        return order


def _is_about_another_rank(error: BaseException) -> bool:
    """Whether a collective failed because another rank is gone."""
    text = str(error)
    lost = any(word in text for word in ("Connection closed", "Connection reset", "gloo", "NCCL", "Broken pipe"))
    return isinstance(error, (dist.DistError, RuntimeError)) and lost


class Watch:
    """The thread of a rank that beats, reports, and ends the process when the group has failed.

    `tell`: on rank 0, called with failures as they come in.
    """

    def __init__(self, rank: Rank, tell: Callable[[Failure], None]) -> None:
        # Requests of one connection wait for each other, and the main thread's may take long.
        clone = getattr(rank.store, "clone", None)
        self._rank = rank if clone is None else replace(rank, store=clone())
        self._tell = tell
        self._main = threading.main_thread().ident
        self._noticed = 0
        self._failed_since: float | None = None
        self._cause_known = False
        self._beats = {n: (0, time.monotonic()) for n in range(rank.total) if n != rank.number}

    def start(self) -> None:
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def _run(self) -> None:
        try:
            while True:
                self._rank.store.add(f"beat/{self._rank.number}", 1)
                if self._rank.progress.stalled:
                    self._rank.post(self._stall())
                    self._rank.progress.mark()
                if self._rank.leads:
                    self._look_after_others()
                time.sleep(BEAT_SECONDS)
        except BaseException:
            # The store is gone, and with it the launcher: a rank alone is of no use.
            traceback.print_exc()
            os._exit(1)

    def _stall(self) -> Failure:
        rank, frame = self._rank, sys._current_frames()[self._main or 0]
        stack = traceback.extract_stack(frame)
        text = f"hangs: it made no progress for {rank.progress.limit:.1f} s"
        trace = f"The main thread of rank {rank.number} is at:\n{''.join(stack.format())}"
        # Ranks that wait in a collective are waiting for the one that hangs elsewhere.
        return Failure(rank.number, rank.where, text, trace, consequence="distributed" in stack[-1].filename)

    def _look_after_others(self) -> None:
        failures = [*self._new_failures(), *self._lost()]
        for failure in failures:
            self._tell(failure)
        if self._failed_since is None and failures:
            self._failed_since = time.monotonic()
        self._cause_known |= any(not failure.consequence for failure in failures)
        # Others may fail too in this moment, and if none of these is the cause, a rank may be about to count as lost.
        patience = BEAT_SECONDS if self._cause_known else LOST_SECONDS + 2 * BEAT_SECONDS
        if self._failed_since is not None and time.monotonic() - self._failed_since > patience:
            os._exit(1)

    def _lost(self) -> Iterator[Failure]:
        now = time.monotonic()
        searching = self._failed_since is not None and not self._cause_known
        limit = SUSPECT_SECONDS if searching else LOST_SECONDS
        for number, (beats, since) in self._beats.items():
            count = self._rank.store.add(f"beat/{number}", 0)
            if count != beats:
                self._beats[number] = (count, now)
            elif count and now - since > limit:
                self._beats[number] = (count, math.inf)
                where = self._rank.store.get(f"where/{number}").decode()
                yield Failure(number, where, f"hangs or is out of reach: nothing was heard of it for {limit:g} s")

    def _new_failures(self) -> Iterator[Failure]:
        count = self._rank.store.add("failures", 0)
        while self._noticed < count:
            self._noticed += 1
            self._rank.store.set(f"noticed/{self._noticed}", "")
            yield Failure(**json.loads(self._rank.store.get(f"failure/{self._noticed}")))
