"""How late a live video is: from what was said to the frame that shows it, and where that time goes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from time import monotonic

from ..distribution import Distribution, Summary

STAGES = ("look_ahead", "capture", "features", "steps", "decode_and_mux", "player")
"""After the end of a block, in this order: what of the voice after it is waited for; how late that sound came; the
audio encoder; sampling; decoding, encoding and muxing; and until a viewer sees it, the network and the player."""
BLOCKS_KEPT = 256
FROM_A_DISTANCE = 3600.0
"""Seconds; a viewer that tells of more has another clock or another video."""


@dataclass
class _Block:
    """Times of the clock, in seconds; None: not yet."""

    ended: float
    """When its last frame's sound was spoken."""
    written: float | None = None
    sampled: float | None = None
    encoded: float | None = None


@dataclass(frozen=True)
class Latency:
    """whole: from a sound to the frame that shows it, on the pages of viewers; until_written: until the server has it
    ready, for the end of each block; stages by name. None where nothing was measured."""

    whole: Summary | None
    until_written: Summary | None
    stages: dict[str, Summary | None]


@dataclass
class LatencyMeter:
    """Told of each block by the threads that work on it, and of frames that viewers see. Keeps `BLOCKS_KEPT` blocks.

    block_seconds: length of a block. spoken_at(second of the video) -> time of `clock`. Any thread.
    """

    block_seconds: float
    spoken_at: Callable[[float], float]
    clock: Callable[[], float] = monotonic
    _blocks: dict[int, _Block] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)
    _whole: Distribution = field(default_factory=Distribution)
    _written: Distribution = field(default_factory=Distribution)
    _stages: dict[str, Distribution] = field(default_factory=lambda: {name: Distribution() for name in STAGES})

    def heard(self, block: int, due: float, ready: float, encoded: float) -> None:
        """When the last sound that a block needs was due, when it was there, and when its features were."""
        ended = self.spoken_at((block + 1) * self.block_seconds)
        with self._lock:
            self._blocks[block] = _Block(ended, encoded=encoded)
            self._blocks.pop(block - BLOCKS_KEPT, None)
            self._add("look_ahead", due - ended)
            self._add("capture", ready - due)
            self._add("features", encoded - ready)

    def sampled(self, block: int) -> None:
        with self._lock:
            found, now = self._blocks.get(block), self.clock()
            if found is not None and found.encoded is not None:
                found.sampled = now
                self._add("steps", now - found.encoded)

    def written(self, block: int) -> None:
        with self._lock:
            found, now = self._blocks.get(block), self.clock()
            if found is not None and found.sampled is not None and found.written is None:
                found.written = now
                self._add("decode_and_mux", now - found.sampled)
                self._written.add(now - found.ended)

    def shown(self, second: float, at: float) -> None:
        """A viewer saw this second of the video at this time of the clock."""
        late = at - self.spoken_at(second)
        if not 0 <= late <= FROM_A_DISTANCE:
            return
        with self._lock:
            self._whole.add(late)
            found = self._blocks.get(int(second / self.block_seconds))
            if found is not None and found.written is not None:
                # The last frame of a block is played when all of it has been.
                left = found.ended - self.spoken_at(second)
                self._add("player", at + left - found.written)

    def summary(self) -> Latency:
        with self._lock:
            stages = {name: values.summary() for name, values in self._stages.items()}
            return Latency(self._whole.summary(), self._written.summary(), stages)

    def _add(self, stage: str, seconds: float) -> None:
        self._stages[stage].add(max(0.0, seconds))
