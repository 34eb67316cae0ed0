"""What a check of a plan says: fits or not and why, where the memory goes, how long it takes, what would help."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from ..duration import FRAMES_PER_BLOCK, format_duration
from ..media.bar_chart import Bar, Chart
from ..planning.advice import spool_bytes, summary
from ..planning.estimates import file_rates
from ..planning.ranges import CLOSE, UNKNOWN, Range, Source
from ..sampling.plan import ClipPlan
from ..texts import gib, rough_size, size_text
from .plan_advice import Advice, Advised
from .plan_bars import OTHERS, MemoryBar, bars_of
from .plan_case import Answer

RATES: dict[Source, str] = {
    "observed": "as earlier runs on this machine took",
    "measured": "measured on such a card",
    "published": "by published measurements of such a card",
    "assumed": "assumed from what the card is sold with",
}
"""Where a speed comes from, in words."""
ROWS: dict[str, str] = {
    "weights": "weights {size}",
    "streamed weights": "streamed weights {size}",
    "gather buffers": "gather buffers {size}",
    "KV caches": "KV caches {size}",
    "staging buffers": "staging buffers {size}",
    "prompt": "prompt {size}",
    "blocks under way": "blocks under way {size}",
    "activations": "activations {size}",
    "VAE": "VAE {size}",
    OTHERS: "system and other models {size}",
}
"""What is in memory, in words."""
SHOWN_BARS, SHOWN_WAYS = 9, 3
"""In the picture."""


@dataclass(frozen=True)
class PlanReport:
    """`machine`, `model`: their names; `plan`: the whole plan
    with its final length, None where the voice decides it and is not known; `told`: more to read."""

    found: Answer
    advised: Advised
    machine: str
    model: str
    plan: ClipPlan | None
    told: tuple[str, ...] = ()

    @cached_property
    def bars(self) -> tuple[MemoryBar, ...]:
        return bars_of(self.found)

    @cached_property
    def headline(self) -> str:
        plan, machine = self.found.case.work.plan, self.machine
        size = f"{plan.width}x{plan.height} in {plan.steps} steps"
        if self.found.fits:
            return f"It fits: {size} on {machine}"
        over = [bar for bar in self.bars if bar.is_over]
        if not over:
            return f"It does not fit: {size} on {machine}"
        worst = max(over, key=lambda bar: bar.filled - bar.limit)
        title, filled, limit = worst.title, gib(worst.filled), gib(worst.limit)
        return f"It does not fit: {size} on {machine}. {title} would have to hold {filled} and can hold {limit}"

    def lines(self) -> list[str]:
        """All of it, the headline first."""
        return [self.headline, self.who, *self.memory(), *self.time(), *self.length(), *self.advice(), *self.told]

    @property
    def who(self) -> str:
        """The model, and who samples it where."""
        stages = self.found.stages
        if stages is None:
            return f"Model: {self.model}"
        return f"Model: {self.model}; executor {stages.executor}; {stages.placement}"

    def memory(self) -> Iterator[str]:
        """A line for each device, and one for RAM."""
        for bar in self.bars:
            rows = ", ".join(ROWS[name].format(size=size_text(size)) for name, size in bar.rows if size > 0)
            title, filled, limit = bar.title, size_text(bar.filled), gib(bar.limit)
            yield f"{title}: {filled} of {limit} that may be filled: {rows}"

    def time(self) -> Iterator[str]:
        """To the first block, and to the end."""
        cost = self.found.cost
        if cost.fps is None or cost.first_block is None:
            return
        if cost.source == UNKNOWN:
            yield "How long it takes is not known for this device: choose a machine with a card by its name."
            return
        yield f"Speed: {cost.fps} frames a second, {RATES[cost.source]}"
        first = _seconds(cost.first_block)
        if self.plan is None:
            yield f"First block after {first}, once the models are loaded"
            return
        frames = len(self.plan.segment.clips) * self.plan.infer_frames - FRAMES_PER_BLOCK
        total = cost.first_block if frames <= 0 else cost.first_block.plus(cost.fps.inverse(frames))
        yield f"First block after {first}, all of it after {_seconds(total)}, once the models are loaded"

    def length(self) -> Iterator[str]:
        """Of the video, on the disk too."""
        if self.plan is None:
            each = rough_size(spool_bytes(self.found.case.work.plan) // self.found.case.work.plan.num_clip)
            yield "Length: as many clips as the voice needs; connect it to know how many"
            yield f"Disk: {each} a clip for finished clips"
            return
        plan = self.plan
        rates, part = file_rates(plan.width, plan.height), plan.segment
        low, high = map(rough_size, rates.size(part.frames, float(part.frames / plan.fps)))
        clips = rough_size(spool_bytes(self.plan))
        yield f"Video: {summary(self.plan)}"
        yield f"Disk: {clips} for finished clips, about {low} to {high} for the video (h264)"

    def advice(self) -> Iterator[str]:
        ways = self.advised.ways
        if ways:
            yield "What would help, the least harm first:" if not self.found.fits else "Less memory, or faster:"
        for number, way in enumerate(ways, 1):
            yield f"{number}. {way_text(way)}"
        yield from self._more_memory()

    def _more_memory(self) -> Iterator[str]:
        if self.found.fits:
            return
        ram, memory = self.advised.more_ram, self.advised.memory
        if ram is not None:
            yield f"It would fit as it is with {gib(ram)} more of RAM"
        if memory is not None:
            yield f"It would fit as it is on devices of {gib(memory)} each"
        if not self.advised.ways and ram is None and memory is None:
            yield "Nothing makes this plan fit here: it needs a larger card and more RAM"

    def chart(self) -> Chart:
        """The picture of it."""
        shown = tuple(
            Bar(bar.title, f"{size_text(bar.filled)} of {gib(bar.limit)}", _legend(bar), bar.limit, bar.size)
            for bar in (*self.bars[: SHOWN_BARS - 1], *self.bars[SHOWN_BARS - 1 :][-1:])
        )
        under = (self.who, *self.time(), *self.length())
        return Chart(self.headline, self.found.fits, under, shown, "May be filled up to here", tuple(self._in_short()))

    def _in_short(self) -> Iterator[str]:
        """The first pieces of advice, without what they cost."""
        ways = self.advised.ways[:SHOWN_WAYS]
        if ways and not self.found.fits:
            yield "What would help, the least harm first:"
            for number, way in enumerate(ways, 1):
                yield f"{number}. {settings_of(way)}"
            yield from self._more_memory()


def _legend(bar: MemoryBar) -> tuple[tuple[str, float], ...]:
    """Names as they stand in the picture."""
    return tuple((name[0].upper() + name[1:], size) for name, size in bar.rows)


def way_text(way: Advice) -> str:
    """A piece of advice: what to set, what it gives, what it costs."""
    quality = " ".join(dict.fromkeys(change.quality for change in way.changes))
    return f"{settings_of(way)}: {', '.join(_effects(way))}. {quality}"


def settings_of(way: Advice) -> str:
    """What to set, and where."""
    return "; ".join(change.setting for change in way.changes)


def _effects(way: Advice) -> Iterator[str]:
    before, after = way.before.cost, way.after.cost
    if not way.before.fits:
        device, ram = gib(max(after.memory)), gib(after.ram)
        rest = f" and {ram} of RAM for caches" if after.ram else ""
        yield f"it fits with {device} on a device{rest}"
    else:
        yield from (change.published for change in way.changes if change.published)
        faster = way.speed_up or 1.0
        if abs(faster - 1) >= 0.05:
            yield f"{faster:.1f} x as fast"
        if max(after.memory) < 0.97 * max(before.memory):
            yield f"{gib(max(after.memory))} on a device instead of {gib(max(before.memory))}"
        if after.ram < 0.97 * before.ram:
            yield f"{gib(after.ram)} of RAM for caches instead of {gib(before.ram)}"


def _seconds(seconds: Range) -> str:
    """For people: "5.1 s", or "4 min 10 s to 5 min" where it is not sure."""
    low, high = _rounded(seconds.low), _rounded(seconds.high)
    return low if low == high or seconds.high - seconds.low < CLOSE * seconds.likely else f"{low} to {high}"


def _rounded(seconds: float) -> str:
    """Tenths below ten seconds, whole ones above."""
    return format_duration(Fraction(round(seconds * 10), 10) if seconds < 10 else Fraction(math.ceil(seconds)))
