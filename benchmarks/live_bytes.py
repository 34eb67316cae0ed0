"""Counts the bytes of tensors that are there on the processor, for each of several threads by itself."""

import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch._C._autograd import _disable_profiler_legacy, _enable_profiler_legacy
from torch.autograd import profiler_legacy


@dataclass(frozen=True)
class Freed:
    """Memory of one thread that another one has freed. `at`: microseconds; both threads by their numbers."""

    at: float
    size: int
    owner: int
    by: int


AT_ONCE = 5000
"""Microseconds between what a thread frees and the note of it, at most."""
Change = tuple[float, int]
"""Microseconds, bytes: less than none where they were freed."""


@dataclass
class LiveBytes:
    """What the threads that are inside `counted` allocate and free, which each of them has to enter itself.

    Memory belongs to the thread that has allocated it. What another one may free has to be told (`hand_over`), as each
    thread is only seen to free. PyTorch's usual profiler sees the memory of no thread but its own, so this takes its
    older one, which every thread can start for itself.
    """

    _changes: dict[int, list[Change]] = field(default_factory=dict)
    _freed: list[Freed] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def counted(self) -> Iterator[None]:
        # Untyped in PyTorch.
        enable: Any = _enable_profiler_legacy
        disable: Any = _disable_profiler_legacy
        started = _now()
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
                self._changes[threading.get_ident()] = found

    def hand_over(self, tensors: Iterable[Tensor]) -> None:
        """Tensors of this thread that go to another one, which may be the last to hold them."""
        for storage in {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in tensors}.values():
            weakref.finalize(storage, self._note, storage.nbytes(), threading.get_ident()).atexit = False

    def _note(self, size: int, owner: int) -> None:
        freed = Freed(_now(), size, owner, threading.get_ident())
        if freed.by != owner:
            with self._lock:
                self._freed.append(freed)

    def peaks(self) -> list[int]:
        """The most that each thread had at one time, beyond what was there before."""
        changes = {thread: list(found) for thread, found in self._changes.items()}
        for freed in self._freed:
            changes[freed.owner].append((freed.at, -freed.size))
            seen = _nearest(changes.get(freed.by, []), freed)
            if seen is not None:
                changes[freed.by].remove(seen)
        return [_most(found) for found in changes.values()]

    def peak(self) -> int:
        """Of all threads, as if each had a device of its own."""
        return sum(self.peaks())


def _now() -> float:
    return time.perf_counter() * 1e6


def _nearest(changes: list[Change], freed: Freed) -> Change | None:
    """When a thread was seen to free that much; None where it was not counted any more."""
    same = [change for change in changes if change[1] == -freed.size and abs(change[0] - freed.at) < AT_ONCE]
    return min(same, key=lambda change: abs(change[0] - freed.at), default=None)


def _most(changes: list[Change]) -> int:
    now = most = 0
    for _, change in sorted(changes, key=lambda change: change[0]):
        now += change
        most = max(most, now)
    return most
