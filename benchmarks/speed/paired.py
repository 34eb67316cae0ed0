"""Two ways to do the same work, timed in turn, and the ratio of what they take.

Processor seconds of this process are counted on a processor, so that other programs count less, and seconds on a card.
The machine's speed changes from minute to minute; the ratio of two runs that follow each other does not.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

Work = Callable[[], object]


@dataclass(frozen=True)
class Paired:
    """Seconds of our runs and of the peer's, pair by pair."""

    ours: tuple[float, ...]
    peer: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Median of the pairs' ratios; below 1 we are faster."""
        return statistics.median(self.ratios)

    @property
    def ratios(self) -> tuple[float, ...]:
        return tuple(ours / peer for ours, peer in zip(self.ours, self.peer, strict=True))

    def as_row(self) -> dict[str, float]:
        return {
            "ours, s": statistics.median(self.ours),
            "peer, s": statistics.median(self.peer),
            "ratio": self.ratio,
            "lowest": min(self.ratios),
            "highest": max(self.ratios),
        }


def seconds_of(work: Work, device: torch.device) -> float:
    """Of one run, until the device has done it."""
    if device.type == "cpu":
        start = time.process_time()
        work()
        return time.process_time() - start
    start = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def paired(ours: Work, peer: Work, device: torch.device, pairs: int) -> Paired:
    """After a run of each that does not count; every second pair begins with the peer."""
    ours()
    peer()
    found: list[tuple[float, float]] = []
    for number in range(pairs):
        if number % 2:
            theirs = seconds_of(peer, device)
            found.append((seconds_of(ours, device), theirs))
        else:
            own = seconds_of(ours, device)
            found.append((own, seconds_of(peer, device)))
    return Paired(tuple(own for own, _ in found), tuple(theirs for _, theirs in found))
