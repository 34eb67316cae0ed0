"""What a user is told while DiT Sampler's blocks are sampled: one line that changes, and warnings above it.

The line goes to the page that runs the prompt as a message of its own, with its numbers, since ComfyUI's progress text
has neither numbers nor a place for warnings. What is left of it at the end stands in the `ui` of the node that takes
the blocks.
"""

import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Protocol

from liveavatar_runtime.distribution import Distribution
from liveavatar_runtime.run_report import Sampled
from liveavatar_runtime.sampling.pace import DeviceMemory, Pace, PaceMeter, pace_text, sampled_text
from liveavatar_runtime.sampling.plan import ClipPlan

from .comfy_types import Hidden
from .memory_watch import MemoryWatch
from .messages_to_page import PageOfRun, workflow_of

if TYPE_CHECKING:
    from .run_facts import RunFacts

EVENT = "liveavatar.pace"
"""Name of the message; `web/pace.js` listens to it."""
BLOCKS_BEFORE_HINTS = 8
"""A card fills until the caches are there."""
BETWEEN_LINES = 0.2
"""Seconds at least: a small model takes steps of a few milliseconds."""


class Telling(Protocol):
    """A stream that says what its user would not expect."""

    news: list[str]


@dataclass
class _AtMostEvery:
    """Says when so many seconds are over again; the first time at once."""

    seconds: float
    last: float = float("-inf")

    def is_due(self) -> bool:
        now = time.monotonic()
        if now - self.last < self.seconds:
            return False
        self.last = now
        return True


class SamplingReport:
    """Of the runs of one stream since a video of it was begun. facts: what was known before them."""

    def __init__(self, hidden: Hidden, facts: "RunFacts") -> None:
        self.node_id, self._workflow = hidden.unique_id, workflow_of(hidden)
        self.facts, self.watch = facts, MemoryWatch(facts.devices, facts.elsewhere, facts.ways)
        self._meters: list[PaceMeter] = []
        self._times = Distribution()
        self._stream: Telling | None = None
        self._page = PageOfRun()
        self._lines, self._readings = _AtMostEvery(BETWEEN_LINES), _AtMostEvery(BETWEEN_LINES)

    def follow(self, stream: Telling) -> None:
        """Tell what this stream says that the user would not expect."""
        self._stream = stream

    def begin(self) -> None:
        """Forget the runs before, for the next video of the stream."""
        self._meters, self._times = [], Distribution()
        self.watch.begin()

    def meter(self, plan: ClipPlan) -> PaceMeter:
        """For a run of the stream that begins now; of a video without an end the runs before are forgotten."""
        if plan.endless:
            self._meters.clear()
        self._meters.append(PaceMeter(plan, self._memory, times=self._times))
        return self._meters[-1]

    def show(self, pace: Pace) -> None:
        # A block's last step always: the next one may be long in coming.
        if self._lines.is_due() or pace.step == pace.steps:
            self._tell(pace_text(pace), pace)

    def _memory(self) -> list[DeviceMemory]:
        """What is taken now, where it was not looked at a moment ago."""
        return self.watch.read() if self._readings.is_due() else []

    @property
    def sampled(self) -> Sampled:
        """What the runs have made so far."""
        paces = [meter.latest for meter in self._meters if meter.latest is not None]
        first = next((pace.first_block_seconds for pace in paces if pace.first_block_seconds is not None), None)
        return Sampled(
            blocks=sum(meter.blocks for meter in self._meters), first_block=first, each=self._times.summary()
        )

    def lines(self) -> list[str]:
        """What was sampled and how fast; nothing when all came from the disk. The page is told as well."""
        paces = [meter.latest for meter in self._meters if meter.latest is not None]
        blocks = self.sampled.blocks
        if not blocks:
            return []
        whole = replace(paces[-1], elapsed_seconds=sum(pace.elapsed_seconds for pace in paces))
        text = sampled_text(whole, blocks)
        self._tell(text, whole)
        return [text]

    def _tell(self, text: str, pace: Pace) -> None:
        warnings = [*(self._stream.news if self._stream is not None else []), *self.watch.warnings]
        hints = self.watch.hints() if self._times.count >= BLOCKS_BEFORE_HINTS else []
        about = {"node": self.node_id, "workflow": self._workflow, "text": text, "warnings": warnings, "hints": hints}
        self._page.tell(EVENT, {**about, "pace": asdict(pace)})
