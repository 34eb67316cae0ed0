"""Which stage runs which evaluation when: the order of work of the pipelines, as pure arithmetic.

A *stage* is a device with a range of layers and a range of steps. Evaluation (b, s) - block b at step s - passes the
stages of `path(s)` one after the other. It may begin when

1. (b, s - 1) has left the last stage of its path, for its latents are the input, and
2. at every stage (b - 1, s) has passed, for its keys and values are attended to.

Before its blocks, and again wherever another reference picture or prompt comes into force (with the adaptive sink at
the first block of clip 1, from the first latent frame of block 0), a third kind of work passes all stages: `sink`
prefills the sink that the blocks from then on use. It needs the block that the picture is taken from to be finished.

A *tick* is the time of one evaluation at one stage. Ticks prove that an order exists which keeps every stage busy; at
run time a stage does its operations in that order and waits for their inputs, so unequal stages and slow links only
stretch it. Since the order never asks for what comes later, nothing can deadlock.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol

from ..errors import InputError

if TYPE_CHECKING:
    from ..sampling.plan import ClipPlan

OperationKind = Literal["evaluate", "sink"]


@dataclass(frozen=True)
class Operation:
    """Work of one stage at one tick; for `sink`, `block` is the first one that uses the new sink and `step` is 0."""

    tick: int
    kind: OperationKind
    block: int
    step: int


@dataclass(frozen=True)
class StagePart:
    """What of the model and of the steps a stage owns; layers count as in the whole model."""

    layers: range
    steps: range


@dataclass(frozen=True)
class Span:
    """The blocks [first, stop) of a run.

    `sinks`: first block that uses a sink -> block that its picture is taken from, None for the given picture.
    """

    first: int
    stop: int
    sinks: Mapping[int, int | None]

    @classmethod
    def of(cls, plan: "ClipPlan", first: int) -> "Span":
        """From block `first` to the end of the plan."""
        sources = {block: plan.sink_source(block) for block in range(first, plan.num_blocks)}
        changes = {b: s for b, s in sources.items() if b == first or s != sources[b - 1]}
        return cls(first, plan.num_blocks, {block: source.frame_of for block, source in changes.items()})


class PipelineSchedule(Protocol):
    """Stages, the way of an evaluation through them, and each stage's order of work."""

    @property
    def parts(self) -> tuple[StagePart, ...]: ...

    @property
    def steps(self) -> int: ...

    def path(self, step: int) -> range:
        """Stages that an evaluation at this step passes, in order."""
        ...

    def operations(self, stage: int, span: Span) -> Iterator[Operation]:
        """All work of a stage, by ascending tick."""
        ...

    def blocks_in_flight(self) -> int:
        """Upper bound of the blocks that are begun and not finished at any tick."""
        ...

    @property
    def blocks_at_a_stage(self) -> int:
        """Upper bound of the blocks that any one stage has begun and has steps left of, at any tick."""
        ...


def layer_stride(stages: int, steps: int) -> int:
    """Ticks from one step of a block to its next, in a `LayerSchedule`."""
    return next(d for d in range(stages, stages + steps + 1) if math.gcd(d, steps) == 1)


def blocks_at_a_layer_stage(stages: int, steps: int) -> int:
    """Of a `LayerSchedule`: a block is at a stage from its first step to its last, and one begins every `steps`."""
    return math.ceil((layer_stride(stages, steps) * (steps - 1) + 1) / steps)


@dataclass(frozen=True)
class LayerSchedule:
    """`layer_pipeline`: N stages of consecutive layers, all of them running all S steps.

    Evaluation (b, s) enters stage 0 at tick

        T(b, s) = S * b + d * s,   d = the smallest number >= N without a common factor with S,

    and is at stage k at tick T(b, s) + k. For N = S = 4 that is 4b + 5s.

    *No two collide.* T(b, s) = T(b', s') gives d * (s - s') = 0 mod S, and as d has no factor in common with S,
    s = s' and so b = b'. *Every stage is busy*: S evaluations a block, one block every S ticks, for any N; there are
    about d * (S - 1) / S + N / S blocks in flight, which is how N may be larger than S. *Dependencies hold*:
    T(b, s) - T(b, s - 1) = d >= N, when (b, s - 1) has left the last stage (d - N ticks are left for the way back to
    stage 0), and T(b, s) - T(b - 1, s) = S >= 1 at every stage.

    *Sinks* take block slots of S ticks in which no block begins: with slot(b) >= b the place of block b among them,
    the formula is T(b, s) = S * slot(b) + d * s. A sink for block K enters stage 0 at S * slot, in the slot just
    before that of block K. The residues mod S still tell the steps apart, and within a step the slots. If the picture
    is taken from block q, empty slots stand before it until S * slot >= S * slot(q) + d * (S - 1) + N, when block q has
    left the last stage. Blocks before K that are still under way then use the sink they began with.
    """

    layers: tuple[range, ...]
    steps: int

    def __post_init__(self) -> None:
        check_layers(self.layers)
        check_steps(self.steps)

    @property
    def parts(self) -> tuple[StagePart, ...]:
        return tuple(StagePart(layers, range(self.steps)) for layers in self.layers)

    @cached_property
    def stride(self) -> int:
        """d: ticks from one step of a block to its next."""
        return layer_stride(len(self.layers), self.steps)

    @property
    def blocks_at_a_stage(self) -> int:
        return blocks_at_a_layer_stage(len(self.layers), self.steps)

    def path(self, step: int) -> range:
        return range(len(self.layers))

    def blocks_in_flight(self) -> int:
        return math.ceil(self._block_ticks / self.steps)

    @property
    def _block_ticks(self) -> int:
        """From a block's begin at stage 0 to its end at the last stage."""
        return self.stride * (self.steps - 1) + len(self.layers)

    def operations(self, stage: int, span: Span) -> Iterator[Operation]:
        steps, slots = self.steps, block_slots(span, self.blocks_in_flight())
        step_of = {self.stride * step % steps: step for step in range(steps)}
        for tick in range(steps * (len(slots) - 1) + self.stride * (steps - 1) + 1):
            step = step_of[tick % steps]
            slot = (tick - self.stride * step) // steps
            if 0 <= slot < len(slots):
                yield from in_slot(slots[slot], tick + stage, step)


@dataclass(frozen=True)
class TimestepSchedule:
    """`timestep_pipeline`: R stages, each with all layers and its own consecutive steps.

    With P = the most steps that a stage owns, the i-th of stage r's steps of block b runs at tick

        P * (b + r) + i.

    *No two collide*: i < P. *Dependencies hold*: within a stage steps follow each other; the next stage begins the
    block at P * (b + r + 1), after tick P * (b + r) + P - 1; and block b - 1 was there P ticks before. A block
    finishes every P ticks: with as many stages as steps, all stages are always busy.

    *Sinks* take block slots of P ticks, as in `LayerSchedule`; every stage prefills its own. A block q in slot(q) has
    left the last stage R slots later.
    """

    num_layers: int
    step_ranges: tuple[range, ...]

    def __post_init__(self) -> None:
        flat = [step for steps in self.step_ranges for step in steps]
        if not flat or flat != list(range(len(flat))) or not all(self.step_ranges):
            raise InputError(f"stages own the steps {self.step_ranges}; they must cover 0, 1, 2, ... in order")

    @property
    def parts(self) -> tuple[StagePart, ...]:
        return tuple(StagePart(range(self.num_layers), steps) for steps in self.step_ranges)

    @property
    def steps(self) -> int:
        return self.step_ranges[-1].stop

    def path(self, step: int) -> range:
        stage = next(number for number, steps in enumerate(self.step_ranges) if step in steps)
        return range(stage, stage + 1)

    def blocks_in_flight(self) -> int:
        return len(self.step_ranges)

    @property
    def blocks_at_a_stage(self) -> int:
        return 1

    def operations(self, stage: int, span: Span) -> Iterator[Operation]:
        own, period = self.step_ranges[stage], max(map(len, self.step_ranges))
        for number, slot in enumerate(block_slots(span, self.blocks_in_flight())):
            for tick, step in enumerate(own, start=period * (number + stage)):
                # A stage's sink takes its first tick, whatever steps it owns.
                yield from in_slot(slot, tick, 0 if slot.kind == "sink" and step == own[0] else step)


@dataclass(frozen=True)
class Slot:
    """The time from one block's begin to the next one's: of a block, of the sink for a block, or empty."""

    kind: OperationKind | None
    block: int = 0


def block_slots(span: Span, blocks_in_flight: int) -> list[Slot]:
    """What begins in each slot; a block is finished `blocks_in_flight` slots after its own."""
    slots: list[Slot] = []
    slot_of: dict[int, int] = {}
    for block in range(span.first, span.stop):
        if block in span.sinks:
            source = span.sinks[block]
            ready = slot_of[source] + blocks_in_flight if source in slot_of else 0
            slots += [Slot(None)] * (ready - len(slots))
            slots.append(Slot("sink", block))
        slot_of[block] = len(slots)
        slots.append(Slot("evaluate", block))
    return slots


def in_slot(slot: Slot, tick: int, step: int) -> Iterator[Operation]:
    """The work of one step in a slot: a sink is made once, at step 0."""
    if slot.kind == "evaluate" or (slot.kind == "sink" and step == 0):
        yield Operation(tick, slot.kind, slot.block, step)


def split_steps(steps: int, devices: int) -> tuple[range, ...]:
    """Consecutive steps for each device, as equal as can be; devices beyond the number of steps get none."""
    check_steps(steps)
    stages = min(steps, devices)
    bounds = [-(-steps * number // stages) for number in range(stages + 1)]
    return tuple(range(a, b) for a, b in zip(bounds, bounds[1:], strict=False))


def check_steps(steps: int) -> None:
    if steps < 1:
        raise InputError(f"steps is {steps}; a schedule needs at least 1")


def check_layers(layers: tuple[range, ...]) -> None:
    """Raises InputError unless the ranges cover 0, 1, 2, ... in order and none is empty."""
    flat = [layer for part in layers for layer in part]
    if not flat or flat != list(range(len(flat))) or not all(layers):
        raise InputError(f"stages own the layers {layers}; they must cover 0, 1, 2, ... in order, at least one each")
