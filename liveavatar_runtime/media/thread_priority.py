"""Keeps an encoder from taking the processor from everything else on the machine."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

THREADS = Path("/proc/self/task")
"""One entry for each thread of this process; Linux only."""


@contextmanager
def ordinary_priority() -> Iterator[None]:
    """Gives back the ordinary priority to threads of this process that become real-time ones inside.

    SVT-AV1 asks for the highest real-time priority for the thread that opens it and for all of its own. A user who runs
    as root, as in most containers, gets it: ComfyUI and whatever it starts then keep everything else waiting. Elsewhere
    than on Linux the encoder asks for nothing.
    """
    before = _real_time_threads()
    try:
        yield
    finally:
        for thread in _real_time_threads() - before:
            # A thread may have ended since it was listed.
            with suppress(ProcessLookupError):
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))


def _real_time_threads() -> set[int]:
    if sys.platform != "linux":
        return set()
    found = set()
    for entry in os.listdir(THREADS):
        with suppress(ProcessLookupError):
            if os.sched_getscheduler(int(entry)) in (os.SCHED_FIFO, os.SCHED_RR):
                found.add(int(entry))
    return found
