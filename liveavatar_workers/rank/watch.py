"""The watch: a thread of every rank with its own connection to a store (a key-value server).

Every rank counts a heartbeat there and reports its failures; rank 0 reads both. A rank fails when it raises, when its
main thread gets no further, when its heartbeat stops, or when it never arrives.
"""

import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import torch.distributed as dist

from ..messages import Failure
from .ranks import BEAT_SECONDS, LOST_SECONDS, SUSPECT_SECONDS, Rank


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
        waits = Path(stack[-1].filename).is_relative_to(Path(dist.__file__).parent)
        return rank.failed(text, trace, consequence=waits)

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
                text = f"hangs or is out of reach: nothing was heard of it for {limit:g} s"
                yield Failure(rank=number, where=where, message=text)

    def _new_failures(self) -> Iterator[Failure]:
        count = self._rank.store.add("failures", 0)
        while self._noticed < count:
            self._noticed += 1
            self._rank.store.set(f"noticed/{self._noticed}", "")
            yield msgspec.json.decode(self._rank.store.get(f"failure/{self._noticed}"), type=Failure)
