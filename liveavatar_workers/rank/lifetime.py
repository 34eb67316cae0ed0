"""Processes that end with the one that started them, however that one ends."""

import ctypes
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """On Linux the system kills this process when its parent's thread that started it ends. Else nothing happens."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # It may have ended just before.
        if os.getppid() != parent:
            os._exit(1)


def when_input_ends(action: Callable[[], None]) -> None:
    """Call `action` in a thread when standard input ends: a pipe that nobody else than the parent holds open."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        action()

    threading.Thread(target=wait, name="parent watch", daemon=True).start()


def end_process(error: BaseException) -> None:
    """Without waiting for other threads; says why where the launcher's user sees it."""
    traceback.print_exception(error)
    os._exit(1)
