"""How long the stages of a video worked, and how long each waited for the others."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Literal

from .texts import seconds_text

Clock = Callable[[], float]
SAMPLER, VAE, FINISHING, ENCODER, DISK = "sampler", "VAE", "finishing", "encoder", "disk"
NAMES = {
    SAMPLER: "the sampler",
    VAE: "the VAE",
    FINISHING: "the finishing",
    ENCODER: "the encoder",
    DISK: "the disk",
}
SHORT_WAIT = 0.01
"""Waits of less than this share of a run are not told."""
EVEN_SHARE = 0.05
"""Stages whose work differs by less, relative to the larger, hold each other up alike."""


@dataclass
class StageTimes:
    """Seconds of one stage: at work, waiting for the stage before it, waiting for room in the one behind it.

    Only the thread of the stage changes them.
    """

    worked: float = 0.0
    for_work: float = 0.0
    for_room: float = 0.0
    clock: Clock = field(default=time.perf_counter, repr=False)

    @contextmanager
    def measured(self, what: Literal["worked", "for_work", "for_room"]) -> Iterator[None]:
        """What is done within it counts, also when it fails."""
        begun = self.clock()
        with ExitStack() as stack:
            stack.callback(lambda: setattr(self, what, getattr(self, what) + self.clock() - begun))
            yield


@dataclass
class VideoTimes:
    """Of a video that is written: its stages, and the blocks in the file, those that were replayed from the disk apart.

    preparing: seconds before the stages began: the VAE is loaded and primed. file, spool: seconds that writing to the
    disk took, within the encoder's work (the file) and the sampler's (finished clips and states). finishing: of the
    VAE's work, what steps on its frames took (`finishing.chain`), None without any. first_block: from the beginning
    until the first block was in the file.
    """

    clock: Clock = field(default=time.perf_counter, repr=False)
    begun: float = 0.0
    ended: float | None = None
    written: int = 0
    replayed: int = 0
    first_block: float | None = None
    preparing: float = 0.0
    file: float = 0.0
    spool: float = 0.0
    finishing: float | None = None
    stages: dict[str, StageTimes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.begun = self.clock()
        self.stages = {name: StageTimes(clock=self.clock) for name in (SAMPLER, VAE, ENCODER)}

    @property
    def seconds(self) -> float:
        """In all, so far or until the end."""
        return (self.clock() if self.ended is None else self.ended) - self.begun

    def start(self) -> None:
        """From now on the stages work."""
        self.preparing = self.clock() - self.begun

    def block_written(self) -> None:
        self.written += 1
        if self.first_block is None:
            self.first_block = self.clock() - self.begun

    def work(self) -> dict[str, float]:
        """Seconds of each stage's own work; what it wrote to the disk is the disk's."""
        worked = {name: times.worked for name, times in self.stages.items()}
        if self.finishing is not None:
            finishing = {FINISHING: self.finishing}
            worked = {SAMPLER: worked[SAMPLER], VAE: worked[VAE], **finishing, ENCODER: worked[ENCODER]}
            worked[VAE] = max(0.0, worked[VAE] - self.finishing)
        worked[ENCODER] = max(0.0, worked[ENCODER] - self.file)
        worked[SAMPLER] = max(0.0, worked[SAMPLER] - self.spool)
        return {**worked, DISK: self.file + self.spool}

    def waits(self) -> dict[str, dict[str, float]]:
        """Seconds that each stage waited for its neighbours, by name. The finishing waits as the VAE, whose thread it
        works in."""
        sampler, vae, encoder = (self.stages[name] for name in (SAMPLER, VAE, ENCODER))
        return {
            SAMPLER: {VAE: sampler.for_room},
            VAE: {SAMPLER: vae.for_work, ENCODER: vae.for_room},
            ENCODER: {VAE: encoder.for_work},
        }

    def bottleneck(self) -> str:
        """The stage that worked longest; "" where none did, or two did alike."""
        (first, most), (_, second) = sorted(self.work().items(), key=lambda item: -item[1])[:2]
        return first if most > 0 and most - second > EVEN_SHARE * most else ""

    def sentence(self) -> str:
        """Which stage holds the others up, and who waited for whom."""
        total, work, slowest = self.seconds - self.preparing, self.work(), self.bottleneck()
        waiting = NAMES if self.finishing is None else {**NAMES, VAE: "the VAE and the finishing"}
        waits = [
            f"{waiting[stage]} waited {seconds_text(seconds)} for {waiting[other]}"
            for stage, of_stage in self.waits().items()
            for other, seconds in of_stage.items()
            if seconds > SHORT_WAIT * total
        ]
        if slowest:
            first = f"Slowest stage: {NAMES[slowest]}, at work {min(1.0, work[slowest] / total):.0%} of the time"
        else:
            first = "No stage is much slower than the others"
        return "; ".join([first, *waits])
