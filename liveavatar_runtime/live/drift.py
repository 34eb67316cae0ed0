"""The clock of a microphone, which is never quite that of the session: how full its buffer is steers how fast it is
read, by so little that nobody hears it."""

import math

import numpy as np

from .samples import SOUND_RATE, SampleQueue, Samples

MOST = 500e-6
"""By which share a microphone is read faster or slower at most; sound cards are off by up to 100 millionths."""
STEERED, LEARNT = 0.02, 0.0001
"""What an error of a second changes in the speed, at once and with each second that it lasts. Together they bring the
buffer back within about a minute, without swinging (LEARNT is a quarter of the square of STEERED)."""
SMOOTHED = 4.0
"""Seconds over which the buffer's level is averaged: pieces come early and late."""
_AROUND = 3
"""Samples that a value between two others needs besides the first: one before, two behind."""


class DriftControl:
    """The speed at which a buffer is read so that it stays at a level, from its levels as pieces arrive."""

    def __init__(self) -> None:
        self.speed = 1.0
        self._learnt = 0.0
        self.begin()

    def begin(self) -> None:
        """Levels from now on have nothing to do with those before; what is known of the clock stays."""
        self._smoothed: float | None = None
        self._level, self._time = 0.0, 0.0

    def saw(self, level: float, wanted: float, now: float) -> None:
        """The buffer has `level` seconds after a piece arrived at `now`, and should have `wanted`."""
        if self._smoothed is not None:
            # The level before lasted until now: a piece that is late counts by how late it is.
            seconds = min(now - self._time, 1.0)
            self._smoothed += (self._level - self._smoothed) * -math.expm1(-seconds / SMOOTHED)
            error = self._smoothed - wanted
            self._learnt = _within(self._learnt + LEARNT * error * seconds)
            self.speed = 1 + _within(STEERED * error + self._learnt)
        else:
            self._smoothed = level
        self._level, self._time = level, now


def _within(share: float) -> float:
    return max(-MOST, min(MOST, share))


class DriftingReader:
    """A queue that is read at a speed near 1: each value is a cubic's through the four samples around its place.

    At speed 1 what it gives is what is in the queue.
    """

    def __init__(self) -> None:
        self.queue = SampleQueue()
        self._at = 0.0
        self.clear()

    def clear(self) -> None:
        self.queue.clear()
        # The sample before the first one.
        self.queue.put(np.zeros(1, np.float32))
        self._at = 0.0

    @property
    def level(self) -> float:
        """Seconds that wait."""
        return max(0.0, (len(self.queue) - 1 - self._at) / SOUND_RATE)

    def available(self, speed: float) -> int:
        """Samples that can be read."""
        return max(0, math.ceil((len(self.queue) - _AROUND - self._at) / speed))

    def take(self, count: int, speed: float) -> Samples:
        """At most `available` of them."""
        places = self._at + speed * np.arange(count)
        before = places.astype(np.int64)
        t = (places - before).astype(np.float32)
        given = self.queue.view(len(self.queue))
        a, b, c, d = (given[before + n] for n in range(4))
        taken = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
        end = self._at + speed * count
        self._at = end % 1
        self.queue.drop(int(end))
        return taken.astype(np.float32)
