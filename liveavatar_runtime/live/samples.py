"""Samples in memory of a fixed size: those that wait for their turn, and the last ones of a sound that goes on."""

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
SOUND_RATE = 48_000
"""Samples a second of a live session's sound."""
FADE = SOUND_RATE // 200
"""Samples over which sound begins or ends that would click otherwise, 5 ms."""


def silence(count: int) -> Samples:
    return np.zeros(count, np.float32)


def rising(count: int) -> Samples:
    """Factors from above 0 to below 1, which with those of its reverse add up to 1."""
    return ((np.arange(count, dtype=np.float32) + 0.5) / max(count, 1)).astype(np.float32)


def cross_faded(one: Samples, other: Samples) -> Samples:
    """From one to the other, both of the same length."""
    weights: Samples = rising(len(one))
    return np.asarray(one * weights[::-1] + other * weights, np.float32)


class SampleQueue:
    """First in, first out. Its memory follows the most that it held at once."""

    def __init__(self) -> None:
        self._data = silence(4096)
        self._first = self._end = 0

    def __len__(self) -> int:
        return self._end - self._first

    def put(self, samples: Samples) -> None:
        if self._end + len(samples) > len(self._data):
            waiting = self.view(len(self))
            needed = len(waiting) + len(samples)
            # Half of it is free afterwards, so that each sample is moved once on average.
            data = silence(max(len(self._data), 2 * needed)) if 2 * needed > len(self._data) else self._data
            data[: len(waiting)] = waiting
            self._data, self._first, self._end = data, 0, len(waiting)
        self._data[self._end : self._end + len(samples)] = samples
        self._end += len(samples)

    def view(self, count: int) -> Samples:
        """The oldest `count`, which stay in the queue; valid until the next call of `put`."""
        return self._data[self._first : self._first + count]

    def take(self, count: int) -> Samples:
        """The oldest `count`, fewer where it has no more."""
        taken = self.view(min(count, len(self))).copy()
        self.drop(len(taken))
        return taken

    def drop(self, count: int) -> None:
        self._first = min(self._first + count, self._end)

    def clear(self) -> None:
        self._first = self._end = 0


class History:
    """The last `capacity` samples of a sound, by their number in it."""

    def __init__(self, capacity: int) -> None:
        self._ring = silence(capacity)
        self.kept = self.end = 0
        """The oldest sample that is still here, and how many there have been."""

    def append(self, samples: Samples) -> None:
        for start in range(0, len(samples), len(self._ring)):
            part = samples[start : start + len(self._ring)]
            place = self.end % len(self._ring)
            fits = min(len(part), len(self._ring) - place)
            self._ring[place : place + fits] = part[:fits]
            self._ring[: len(part) - fits] = part[fits:]
            self.end += len(part)
        self.kept = max(self.kept, self.end - len(self._ring))

    def read(self, first: int, end: int) -> Samples:
        """Samples [first, end), all of them between `kept` and `end`."""
        assert self.kept <= first <= end <= self.end, (first, end, self.kept, self.end)
        place = first % len(self._ring)
        one = self._ring[place : place + end - first]
        return np.concatenate([one, self._ring[: end - first - len(one)]])

    def take_back(self, first: int) -> Samples:
        """Samples from `first` on, which are as if they had never been appended."""
        taken = self.read(first, self.end)
        self.end = first
        return taken
