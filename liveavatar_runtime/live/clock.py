"""The clock of a live session."""

import threading
import time


class Clock:
    """The system's monotonic one. Tests and simulations have others."""

    def now(self) -> float:
        """Seconds."""
        return time.monotonic()

    def wait(self, changed: threading.Condition, seconds: float) -> None:
        """Until `changed`, which is held, is notified, at most so long."""
        changed.wait(seconds)
