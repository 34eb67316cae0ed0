"""Which stage runs which evaluation when: the order of work of the pipelines, as pure arithmetic.

A *stage* is a device with a range of layers and a range of steps. Evaluation (b, s) - block b at step s - passes the
stages of `path(s)` one after the other. It may begin when

1. (b, s - 1) has left the last stage of its path, for its latents are the input, and
2. at every stage (b - 1, s) has passed, for its keys and values are attended to.

With the adaptive sink, block K = `renew_at` (the first of clip 1) sees another reference picture: the first latent
frame of block 0. So a third kind of work, `sink`, passes all stages once after block 0 is finished and before (K, 0).

A *tick* is the time of one evaluation at one stage. Ticks prove that an order exists which keeps every stage busy; at
run time a stage does its operations in that order and waits for their inputs, so unequal stages and slow links only
stretch it. Since the order never asks for what comes later, nothing can deadlock.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

from ..errors import InputError

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


@dataclass(frozen=True, kw_only=True)
class Span:
    """The blocks [first, stop) of a run; `renew_at`: block that gets the new sink, None when no block does.

    `awaits_first_block`: whether that sink is made from a block of this run (block 0), or is known beforehand.
    """

    first: int
    stop: int
    renew_at: int | None = None
    awaits_first_block: bool = True


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

    *The sink's renewal* takes m block slots, S ticks each, in which no new block begins: blocks from K on count as
    b + m. Since S * m is 0 mod S, the residues still tell the steps apart, and within a step the blocks stay apart.
    The renewal itself takes the tick of step 0 in the last of these slots, S * (K + m - 1), and m >= 1 is the
    smallest with S * (K + m - 1) >= d * (S - 1) + N, when block 0 has left the last stage. Evaluations of blocks
    before K that are still under way then use the old sink of their steps.
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
        stages = len(self.layers)
        return next(d for d in range(stages, stages + self.steps + 1) if math.gcd(d, self.steps) == 1)

    def path(self, step: int) -> range:
        return range(len(self.layers))

    def blocks_in_flight(self) -> int:
        return math.ceil(self._block_ticks / self.steps)

    @property
    def _block_ticks(self) -> int:
        """From a block's begin at stage 0 to its end at the last stage."""
        return self.stride * (self.steps - 1) + len(self.layers)

    def gap_blocks(self, span: Span) -> int:
        """m: block slots that the renewal of the sink takes."""
        if span.renew_at is None:
            return 0
        if not span.awaits_first_block:
            return 1
        return max(1, math.ceil(self._block_ticks / self.steps) - (span.renew_at - span.first) + 1)

    def operations(self, stage: int, span: Span) -> Iterator[Operation]:
        steps, gap = self.steps, self.gap_blocks(span)
        slots = span.stop - span.first + gap
        step_of = {self.stride * step % steps: step for step in range(steps)}
        for tick in range(steps * (slots - 1) + self.stride * (steps - 1) + 1):
            step = step_of[tick % steps]
            slot = (tick - self.stride * step) // steps
            if 0 <= slot < slots:
                work = in_slot(slot, step, span, gap)
                if work is not None:
                    yield Operation(tick + stage, *work)


@dataclass(frozen=True)
class TimestepSchedule:
    """`timestep_pipeline`: R stages, each with all layers and its own consecutive steps.

    With P = the most steps that a stage owns, the i-th of stage r's steps of block b runs at tick

        P * (b + r) + i.

    *No two collide*: i < P. *Dependencies hold*: within a stage steps follow each other; the next stage begins the
    block at P * (b + r + 1), after tick P * (b + r) + P - 1; and block b - 1 was there P ticks before. A block
    finishes every P ticks: with as many stages as steps, all stages are always busy.

    *The sink's renewal*: every stage prefills its own sink, in a free block slot before block K; blocks from K on
    count as b + m. Stage 0 can do so at P * (K + m - 1) >= P * R, when block 0 has left the last stage.
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

    def gap_blocks(self, span: Span) -> int:
        """m: block slots that the renewal of the sink takes."""
        if span.renew_at is None:
            return 0
        if not span.awaits_first_block:
            return 1
        return max(1, len(self.step_ranges) - (span.renew_at - span.first) + 1)

    def operations(self, stage: int, span: Span) -> Iterator[Operation]:
        own, gap = self.step_ranges[stage], self.gap_blocks(span)
        period = max(map(len, self.step_ranges))
        for slot in range(span.stop - span.first + gap):
            for index, step in enumerate(own):
                work = in_slot(slot, index, span, gap)
                if work is not None:
                    kind, block, _ = work
                    yield Operation(period * (slot + stage) + index, kind, block, step if kind == "evaluate" else 0)


def in_slot(slot: int, step: int, span: Span, gap: int) -> tuple[OperationKind, int, int] | None:
    """(kind, block, step) of what is done in a block slot: nothing in the gap but the renewal, which ends it."""
    block = span.first + slot
    if span.renew_at is None or block < span.renew_at:
        return "evaluate", block, step
    if block >= span.renew_at + gap:
        return "evaluate", block - gap, step
    renews = step == 0 and block == span.renew_at + gap - 1
    return ("sink", span.renew_at, 0) if renews else None


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
