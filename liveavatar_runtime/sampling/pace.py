"""How fast a run samples: where it is, how long a block takes, how long the rest will take."""

import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ..distribution import Distribution
from ..duration import FRAMES_PER_BLOCK
from ..texts import clock_text, gib, short_seconds, size_text
from .plan import ClipPlan
from .run import Evaluation

RECENT_BLOCKS = 8
"""Of so many blocks the median is taken: one that a model was loaded in, or another program, does not move it."""


@dataclass(frozen=True)
class DeviceMemory:
    """What is taken of a device, and what it has, in bytes; of a processor, what this process takes of the RAM."""

    device: str
    used: int
    total: int


@dataclass(frozen=True)
class Pace:
    """Where a run is. Clips, blocks and steps count from 1, blocks within their clip; 0 clips: there is no end.

    block_seconds: median of the recent blocks; None before the second one, since the first also loads. realtime:
    seconds of video made in a second. memory: the most so far of each device.
    """

    clip: int
    clips: int
    block: int
    blocks: int
    step: int
    steps: int
    elapsed_seconds: float
    first_block_seconds: float | None
    block_seconds: float | None
    seconds_left: float | None
    realtime: float | None
    memory: tuple[DeviceMemory, ...]


class PaceMeter:
    """Measures a run of a plan, evaluation by evaluation, in whatever order the executor makes them.

    read_memory: of all devices now. clock: seconds. times: gets what each block after the first one took.
    """

    def __init__(
        self,
        plan: ClipPlan,
        read_memory: Callable[[], list[DeviceMemory]] = list,
        clock: Callable[[], float] = time.perf_counter,
        times: Distribution | None = None,
    ) -> None:
        self._times = Distribution() if times is None else times
        self._plan, self._read_memory, self._clock = plan, read_memory, clock
        self._begun = self._last_block = clock()
        self._first_seconds: float | None = None
        self._recent: deque[float] = deque(maxlen=RECENT_BLOCKS)
        self._most: dict[str, DeviceMemory] = {}
        self._to_do = self._done = 0
        self.blocks = 0
        """Finished ones."""
        self.latest: Pace | None = None

    def after(self, evaluation: Evaluation) -> Pace:
        plan, now = self._plan, self._clock()
        if not self._done:
            self._to_do = (plan.num_blocks - evaluation.block) * plan.steps
        self._done += 1
        if evaluation.step == plan.steps - 1:
            self._note_block(now)
        for memory in self._read_memory():
            known = self._most.get(memory.device)
            self._most[memory.device] = memory if known is None or memory.used > known.used else known
        self.latest = self._pace(evaluation, now)
        return self.latest

    def _note_block(self, now: float) -> None:
        if self._first_seconds is None:
            self._first_seconds = now - self._begun
        else:
            self._recent.append(now - self._last_block)
            self._times.add(now - self._last_block)
        self._last_block = now
        self.blocks += 1

    def _pace(self, evaluation: Evaluation, now: float) -> Pace:
        plan = self._plan
        block = statistics.median(self._recent) if self._recent else None
        return Pace(
            clip=plan.clip_of(evaluation.block) + 1,
            clips=0 if plan.endless else plan.num_clip,
            block=evaluation.block % plan.blocks_per_clip + 1,
            blocks=plan.blocks_per_clip,
            step=evaluation.step + 1,
            steps=plan.steps,
            elapsed_seconds=now - self._begun,
            first_block_seconds=self._first_seconds,
            block_seconds=block,
            seconds_left=None if block is None or plan.endless else self._left(block),
            realtime=float(FRAMES_PER_BLOCK / plan.fps) / block if block else None,
            memory=tuple(self._most.values()),
        )

    def _left(self, block: float) -> float:
        """Seconds, at so many for a block."""
        return max(0, self._to_do - self._done) * block / self._plan.steps


def pace_text(pace: Pace) -> str:
    """The line that a user sees while a run goes on."""
    parts = [f"clip {pace.clip} of {pace.clips}, block {pace.block} of {pace.blocks}, step {pace.step} of {pace.steps}"]
    if not pace.clips:
        parts = [f"clip {pace.clip}, block {pace.block} of {pace.blocks}, step {pace.step} of {pace.steps}"]
    return "; ".join([*parts, *_left(pace), *_speeds(pace), *_memory(pace)])


def _left(pace: Pace) -> list[str]:
    return [] if pace.seconds_left is None else [f"{clock_text(pace.seconds_left)} left"]


def _speeds(pace: Pace) -> list[str]:
    told: list[str] = []
    if pace.block_seconds is not None:
        told.append(f"{short_seconds(pace.block_seconds)} a block")
    if pace.first_block_seconds is not None:
        told.append(f"first block {short_seconds(pace.first_block_seconds)}")
    if pace.realtime is not None:
        told.append(f"{pace.realtime:.2f}x real time")
    return told


def _memory(pace: Pace) -> list[str]:
    return [
        f"{'RAM' if memory.device == 'cpu' else memory.device} {size_text(memory.used)} of {gib(memory.total)}"
        for memory in pace.memory
    ]


def sampled_text(pace: Pace, blocks: int) -> str:
    """The line about a run that has ended: how many blocks it has sampled, and how fast."""
    return "; ".join([f"sampled {blocks} blocks in {clock_text(pace.elapsed_seconds)}", *_speeds(pace), *_memory(pace)])
