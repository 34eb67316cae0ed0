"""Counts the bytes of tensors that are there on the processor, over several threads."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch._C._autograd import _disable_profiler_legacy, _enable_profiler_legacy
from torch.autograd import profiler_legacy


@dataclass
class LiveBytes:
    """What the threads that are inside `counted` allocate and free, which each of them has to enter itself.

    PyTorch's usual profiler sees only the memory of the thread that has started it, so this takes its older one, which
    every thread can start for itself.
    """

    _changes: list[tuple[float, int]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def counted(self) -> Iterator[None]:
        # Untyped in PyTorch.
        enable: Any = _enable_profiler_legacy
        disable: Any = _disable_profiler_legacy
        started = time.perf_counter() * 1e6
        enable(profiler_legacy.profile(profile_memory=True).config())
        try:
            yield
        finally:
            records = [record for thread in disable() for record in thread]
            start = next(record for record in records if record.name() == "__start_profile")
            found = [
                (started + start.cpu_elapsed_us(record), record.cpu_memory_usage())
                for record in records
                if record.kind() == "memory_alloc"
            ]
            with self._lock:
                self._changes += found

    def peak(self) -> int:
        """The most that was there at one time, beyond what was there before."""
        now = most = 0
        for _, change in sorted(self._changes, key=lambda change: change[0]):
            now += change
            most = max(most, now)
        return most
