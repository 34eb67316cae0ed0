"""Discrete-event simulation of the executors: when each stage, link and decoder is busy.

Stages do the operations of their schedule in order, as soon as the inputs are there. A link carries one message after
the other and delivers it after its latency. The decoder takes finished blocks, on a card of its own or in turn with
the stage whose card it shares.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from ..pipeline.schedule import Operation, PipelineSchedule, Span


@dataclass(frozen=True)
class Link:
    """`bandwidth` in bytes/s, `latency` in s."""

    bandwidth: float
    latency: float = 0.0

    def seconds(self, size: float) -> float:
        """How long a message of so many bytes keeps the link busy."""
        return size / self.bandwidth


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Times in seconds, by stage. `links[i, j]`: from stage i to stage j; a pair that is missing costs nothing.

    `decode`: of one block; `decoder_at`: the stage whose card decodes, None for a card of its own.
    """

    evaluate: Sequence[float]
    sink: Sequence[float]
    links: dict[tuple[int, int], Link] = field(default_factory=dict)
    hidden_bytes: float = 0.0
    latents_bytes: float = 0.0
    sink_bytes: float = 0.0
    decode: float = 0.0
    decoder_at: int | None = None


@dataclass(frozen=True)
class Simulation:
    """`sampled[b]`, `shown[b]`: seconds at which block b left the last stage and the decoder; `busy`: each stage's
    share of the time until the last block was sampled."""

    sampled: tuple[float, ...]
    shown: tuple[float, ...]
    busy: tuple[float, ...]

    @property
    def first_block(self) -> float:
        """Seconds until the first block can be seen."""
        return self.shown[0]

    @property
    def seconds_per_block(self) -> float:
        return steady_pace(self.shown)


def steady_pace(times: Sequence[float]) -> float:
    """Seconds between blocks while the pipeline is full: over the second and third quarter of the blocks."""
    first, last = len(times) // 4, 3 * len(times) // 4
    if first == last:
        return times[-1] / len(times)
    return (times[last] - times[first]) / (last - first)


Key = tuple[int, str, int, int]
"""(stage, kind, block, step) of an operation."""


def simulate(schedule: PipelineSchedule, span: Span, costs: Costs) -> Simulation:
    """Run all operations of a span of blocks."""
    return _Simulator(schedule, span, costs).run()


class _Simulator:
    def __init__(self, schedule: PipelineSchedule, span: Span, costs: Costs) -> None:
        self.schedule, self.span, self.costs = schedule, span, costs
        stages = range(len(schedule.parts))
        self.orders = [schedule.operations(stage, span) for stage in stages]
        self.next: list[Operation | None] = [next(order, None) for order in self.orders]
        self.decoder = len(stages) if costs.decoder_at is None else costs.decoder_at
        self.waiting: list[int] = []
        self.running: dict[int, Operation | int] = {}
        self.busy = [0.0] * (len(stages) + 1)
        self.arrived: set[Key] = set()
        self.link_free: dict[tuple[int, int], float] = {}
        self.events: list[tuple[float, int, int, Key | None]] = []
        self.numbers = count()
        self.sampled: dict[int, float] = {}
        self.shown: dict[int, float] = {}

    def run(self) -> Simulation:
        for card in range(len(self.busy)):
            self._start_next(card, 0.0)
        now = 0.0
        while self.events:
            now, _, card, arrival = heapq.heappop(self.events)
            if arrival is None:
                self._finish(card, now)
            else:
                self.arrived.add(arrival)
            self._start_next(card, now)
        blocks = range(self.span.first, self.span.stop)
        total = max(self.sampled.values())
        busy = tuple(time / total for time in self.busy[: len(self.orders)])
        return Simulation(tuple(self.sampled[b] for b in blocks), tuple(self.shown[b] for b in blocks), busy)

    def _start_next(self, card: int, now: float) -> None:
        """Begin what a free card can begin; decoding goes first, as it keeps nobody waiting for long."""
        if card in self.running:
            return
        if card == self.decoder and self.waiting:
            self._begin(card, self.waiting.pop(0), self.costs.decode, now)
            return
        operation = self.next[card] if card < len(self.next) else None
        if operation is not None and self._is_ready(card, operation):
            times = self.costs.sink if operation.kind == "sink" else self.costs.evaluate
            self.next[card] = next(self.orders[card], None)
            self._begin(card, operation, times[card], now)

    def _begin(self, card: int, work: Operation | int, seconds: float, now: float) -> None:
        self.running[card] = work
        self.busy[card] += seconds
        heapq.heappush(self.events, (now + seconds, next(self.numbers), card, None))

    def _is_ready(self, stage: int, operation: Operation) -> bool:
        path = self.schedule.path(operation.step)
        if operation.kind == "sink":
            given = self.span.sinks[operation.block] not in range(self.span.first, self.span.stop)
            own = given and (stage == 0 or len(path) == 1)
        else:
            own = operation.step == 0 and stage == path[0]
        return own or (stage, operation.kind, operation.block, operation.step) in self.arrived

    def _finish(self, card: int, now: float) -> None:
        work = self.running.pop(card)
        if isinstance(work, int):
            self.shown[work] = now
            return
        path, costs = self.schedule.path(work.step), self.costs
        if work.kind == "sink":
            if len(path) > 1 and card != path[-1]:
                self._send(card, card + 1, work, costs.sink_bytes, now)
        elif card != path[-1]:
            self._send(card, card + 1, work, costs.hidden_bytes, now)
        elif work.step + 1 < self.schedule.steps:
            following = Operation(0, "evaluate", work.block, work.step + 1)
            self._send(card, self.schedule.path(work.step + 1)[0], following, costs.latents_bytes, now)
        else:
            self._finish_block(card, work.block, now)

    def _finish_block(self, card: int, block: int, now: float) -> None:
        self.sampled[block] = now
        self.waiting.append(block)
        heads = {self.schedule.path(step)[0] for step in range(self.schedule.steps)}
        for renewed, source in self.span.sinks.items():
            for stage in heads if source == block else ():
                self._send(card, stage, Operation(0, "sink", renewed, 0), self.costs.latents_bytes, now)
        self._start_next(self.decoder, now)

    def _send(self, source: int, to: int, operation: Operation, size: float, now: float) -> None:
        """Deliver the input of an operation; messages of one link follow each other."""
        arrival = now
        link = self.costs.links.get((source, to))
        if link is not None:
            free = max(now, self.link_free.get((source, to), 0.0)) + link.seconds(size)
            self.link_free[source, to] = free
            arrival = free + link.latency
        key = (to, operation.kind, operation.block, operation.step)
        heapq.heappush(self.events, (arrival, next(self.numbers), to, key))
