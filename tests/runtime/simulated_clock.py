"""A clock for live sessions that stands still until somebody waits, and what happens while it goes on."""

import heapq
import threading
from collections.abc import Callable
from itertools import count

import numpy as np

from liveavatar_runtime.live.clock import Clock
from liveavatar_runtime.live.samples import SOUND_RATE, Samples
from liveavatar_runtime.live.source import Source


class SimulatedClock(Clock):
    """Waiting takes no time: the clock goes to its end, or to the next event that was planned before."""

    def __init__(self, start: float = 1000.0) -> None:
        self.time = start
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def now(self) -> float:
        return self.time

    def wait(self, changed: threading.Condition, seconds: float) -> None:
        self.advance(seconds)

    def at(self, time: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), event))

    def advance(self, seconds: float) -> None:
        """All events of this time happen, at their own times; then that time is over."""
        end = self.time + seconds
        while self._events and self._events[0][0] <= end:
            time, _, event = heapq.heappop(self._events)
            self.time = max(self.time, time)
            event()
        self.time = max(self.time, end)


PERIOD = 8.0


class Microphone:
    """Pushes a sound that tells when it was recorded: a sawtooth of `PERIOD` seconds of the true time.

    parts_per_million: how much faster than the session its clock is; jitter: seconds by which a piece may be late.
    """

    def __init__(
        self,
        clock: SimulatedClock,
        source: Source,
        *,
        parts_per_million: float = 0,
        jitter: float = 0,
        piece: int = 1920,
    ) -> None:
        self.clock, self.source, self.piece = clock, source, piece
        self.rate = SOUND_RATE * (1 + parts_per_million * 1e-6)
        self.jitter, self.random = jitter, np.random.default_rng(1)
        self.began, self.pushed, self.silent_until = clock.time, 0, 0.0
        self._arrived = 0.0
        self._plan()

    def _plan(self) -> None:
        recorded = self.began + (self.pushed + self.piece) / self.rate
        # Pieces may be late, and never overtake each other.
        late = self.jitter * float(self.random.random()) ** 2
        self._arrived = max(self._arrived, recorded + late, self.silent_until)
        self.clock.at(self._arrived, self._push)

    def _push(self) -> None:
        times = (self.pushed + np.arange(self.piece)) / self.rate
        self.source.push((0.1 + 0.8 * (times % PERIOD) / PERIOD).astype(np.float32))
        self.pushed += self.piece
        self._plan()

    def recorded_at(self, heard: Samples) -> np.ndarray:
        """Seconds, modulo `PERIOD`, since it began."""
        return (heard.astype(np.float64) - 0.1) / 0.8 * PERIOD
