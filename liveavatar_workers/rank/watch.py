"""The watch: a thread of every rank with its own connection to a store (a key-value server).

Every rank counts a heartbeat there and reports its failures; rank 0 reads both. A rank fails when it raises, when its
main thread gets no further, when its heartbeat stops, or when it never arrives. When one ends, torchrun tells all that
are left to end: these say so, and rank 0 finds out which one ended without a word, and stays until it has told.
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

from liveavatar_runtime.errors import handled

from ..messages import Failure
from .end_signal import EndSignal
from .lifetime import end_process
from .ranks import BEAT_SECONDS, LOST_SECONDS, SUSPECT_SECONDS, Rank
from .siblings import has_ended, own_process

PATIENCE_SECONDS = LOST_SECONDS + 2 * BEAT_SECONDS
"""How long the cause is looked for after a failure; less than torchrun waits for ranks that it has told to end, 30."""


class Watch:
    """The thread of a rank that beats, reports, and ends the process when the group has failed.

    `tell`: on rank 0, called with failures as they come in; `end_signal`: where nobody else knows how ranks ended.
    """

    def __init__(self, rank: Rank, tell: Callable[[Failure], None], end_signal: EndSignal | None = None) -> None:
        # Requests of one connection wait for each other, and the main thread's may take long.
        clone = getattr(rank.store, "clone", None)
        self._rank = rank if clone is None else replace(rank, store=clone())
        self._tell, self._end_signal = tell, end_signal
        self._main = threading.main_thread().ident
        self._noticed = 0
        self._failed_since: float | None = None
        self._cause_known = False
        self._reported: set[int] = set()
        self._beats = {n: (0, time.monotonic()) for n in range(rank.total) if n != rank.number}

    def start(self) -> None:
        self._rank.store.set(f"process/{self._rank.number}", own_process())
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def _run(self) -> None:
        # The store is gone, and with it the launcher: a rank alone is of no use.
        with handled(BaseException, end_process):
            while True:
                self._rank.store.add(f"beat/{self._rank.number}", 1)
                if self._rank.stall_detector.stalled:
                    self._rank.file_report(self._stall())
                    self._rank.stall_detector.mark()
                if self._rank.leads:
                    self._look_after_others()
                elif self._told_to_end:
                    self._rank.store.set(f"told to end/{self._rank.number}", "")
                    os._exit(1)
                self._wait()

    def _wait(self) -> None:
        if self._end_signal is None:
            time.sleep(BEAT_SECONDS)
        else:
            self._end_signal.wait(BEAT_SECONDS)

    @property
    def _told_to_end(self) -> bool:
        return self._end_signal is not None and self._end_signal.came

    def _stall(self) -> Failure:
        rank, frame = self._rank, sys._current_frames()[self._main or 0]
        stack = traceback.extract_stack(frame)
        text = f"hangs: it made no progress for {rank.stall_detector.limit:.1f} s"
        trace = f"The main thread of rank {rank.number} is at:\n{''.join(stack.format())}"
        # Ranks that wait in a collective are waiting for the one that hangs elsewhere.
        waits = Path(stack[-1].filename).is_relative_to(Path(dist.__file__).parent)
        return rank.failed(text, trace, consequence=waits)

    def _look_after_others(self) -> None:
        failures = [*self._new_failures(), *self._lost()]
        self._reported |= {failure.rank for failure in failures}
        if self._told_to_end and not self._cause_known and not failures:
            failures = [*self._without_cause()]
        for failure in failures:
            self._tell(failure)
        if self._failed_since is None and (failures or self._told_to_end):
            self._failed_since = time.monotonic()
        self._cause_known |= any(not failure.consequence for failure in failures)
        # Others may fail too in this moment, and if none of these is the cause, a rank may be about to count as lost.
        if self._has_waited(BEAT_SECONDS if self._cause_known else PATIENCE_SECONDS):
            os._exit(1)

    def _has_waited(self, seconds: float) -> bool:
        return self._failed_since is not None and time.monotonic() - self._failed_since > seconds

    def _without_cause(self) -> Iterator[Failure]:
        """Why this rank ends, when all others have said that they were told to end too, or will never say anything."""
        silent = self._silent()
        if not silent:
            yield self._rank.failed("was told to end (SIGTERM), as all other ranks were")
        elif self._has_waited(PATIENCE_SECONDS):
            unknown = ", ".join(map(str, silent))
            yield self._rank.failed(f"was told to end (SIGTERM); nothing was heard of rank {unknown}")

    def _silent(self) -> list[int]:
        """The ranks that may still run, and those that ended without a word."""
        others = self._beats.keys() - self._reported
        return [number for number in sorted(others) if not self._rank.store.check([f"told to end/{number}"])]

    def _lost(self) -> Iterator[Failure]:
        now = time.monotonic()
        searching = self._failed_since is not None and not self._cause_known and not self._told_to_end
        limit = SUSPECT_SECONDS if searching else LOST_SECONDS
        for number in self._silent():
            beats, since = self._beats[number]
            count = self._rank.store.add(f"beat/{number}", 0)
            if self._told_to_end and self._is_gone(number):
                yield self._failed(number, "ended without a word, as when it is killed")
            elif count != beats:
                self._beats[number] = (count, now)
            elif count and now - since > limit:
                self._beats[number] = (count, math.inf)
                yield self._failed(number, f"hangs or is out of reach: nothing was heard of it for {limit:g} s")

    def _is_gone(self, number: int) -> bool:
        """Whether another rank is gone and has not said why."""
        store, key = self._rank.store, f"process/{number}"
        gone = store.check([key]) and has_ended(store.get(key).decode())
        # It may have said so, or reported a failure, while it was looked for.
        return gone and number in self._silent() and store.add("failures", 0) == self._noticed

    def _failed(self, number: int, text: str) -> Failure:
        """A failure of another rank."""
        return Failure(rank=number, where=self._rank.store.get(f"where/{number}").decode(), message=text)

    def _new_failures(self) -> Iterator[Failure]:
        count = self._rank.store.add("failures", 0)
        while self._noticed < count:
            self._noticed += 1
            self._rank.store.set(f"noticed/{self._noticed}", "")
            yield msgspec.json.decode(self._rank.store.get(f"failure/{self._noticed}"), type=Failure)
