"""Does the host wait for the card within an evaluation? Never: it would leave the card idle until the next kernels are
there."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from liveavatar_runtime.dit.model import Row
from liveavatar_runtime.dit.placement import Placement
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.sampling.block_run import BlockRun
from liveavatar_runtime.sampling.evaluator import Evaluator, PlacedModel
from liveavatar_runtime.sampling.run import SamplingRequest

from . import models
from .bench import Bench
from .trace import traced

ALLOWED = 0.0
"""For one evaluation."""
RANGE = "evaluation"
PLACES = (
    Placement(),
    Placement("ram"),
    Placement("ram", "fp8"),
    Placement(batched=True),
    Placement("ram", batched=True),
)


@dataclass
class Watch:
    """`evaluations` so far; `warns`: whether PyTorch warns when one of them makes the host wait."""

    evaluations: int = 0
    warns: bool = False


WATCH = Watch()
"""Of the run in progress, which makes its own evaluator."""


@contextmanager
def marked() -> Iterator[None]:
    """A part of an evaluation, in a profiler's trace."""
    if WATCH.warns:
        torch.cuda.set_sync_debug_mode("warn")
    with torch.profiler.record_function(RANGE):
        yield
    if WATCH.warns:
        torch.cuda.set_sync_debug_mode("default")


class MarkedEvaluator(Evaluator):
    """Marks its evaluations and counts them; those of a batch are as many as its rows."""

    def embed(self, latents: Sequence[Tensor], blocks: Sequence[int]) -> Tensor:
        with marked():
            return super().embed(latents, blocks)

    def run_layers(self, hidden: Tensor, rows: Sequence[Row]) -> Tensor:
        WATCH.evaluations += len(rows)
        with marked():
            return super().run_layers(hidden, rows)

    def velocities(self, hidden: Tensor, rows: Sequence[Row]) -> Tensor:
        with marked():
            return super().velocities(hidden, rows)

    def advance(self, latents: Tensor, velocity: Tensor, step: int) -> Tensor:
        with marked():
            return super().advance(latents, velocity, step)


def marked_run(executor: LocalExecutor, bench: Bench) -> BlockRun:
    """As `LocalExecutor.run`, with its evaluations marked."""
    config = executor.model.config
    plan = models.plan_of(bench, models.sizes(bench)[0], infer_frames=12)
    request = SamplingRequest(models.random_conditions(config, plan), plan)

    def evaluator() -> MarkedEvaluator:
        place = PlacedModel(executor.model, executor.device)
        return MarkedEvaluator(place, request, executor.dtype, executor.make_cache)

    return BlockRun(evaluator, request, plan.steps if executor.batched else 1)


@dataclass(frozen=True)
class Lines:
    """Lines of code that made the host wait, from PyTorch's own warnings."""

    counts: Counter[str]

    def __str__(self) -> str:
        return ", ".join(f"{line} ({count})" for line, count in self.counts.most_common(4)) or "none"


def warned(call: Callable[[], object]) -> Lines:
    """Runs it, on a card, with warnings about what makes the host wait in evaluations."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        WATCH.warns = True
        try:
            call()
        finally:
            WATCH.warns = False
            torch.cuda.set_sync_debug_mode("default")
    found = [one for one in caught if "called a synchronizing" in str(one.message)]
    return Lines(Counter(f"{one.filename.rsplit('/', 1)[-1]}:{one.lineno}" for one in found))


def count_syncs(bench: Bench) -> None:
    """For several places of the caches, over the evaluations of a block in steady state."""
    config = models.wide_config(bench)
    model = models.random_model(config, torch.bfloat16, bench.device)
    for placement in PLACES:
        run = marked_run(LocalExecutor.placed(PlacedModel(model, bench.device), torch.bfloat16, placement), bench)
        for _ in range(1 if bench.tiny else 6):
            next(run)
        _count(bench, placement, run, config.num_layers)
        run.close()


def _count(bench: Bench, placement: Placement, run: BlockRun, layers: int) -> None:
    WATCH.evaluations = 0
    trace = traced(partial(next, run), bench.device)
    evaluations, ranges = WATCH.evaluations, trace.ranges(RANGE)
    waits = trace.waits(ranges)
    each = len(waits) / evaluations
    lines: Lines | None = None
    if bench.on_card:
        lines = warned(partial(next, run))
    seen = trace.saw_host_calls or not bench.on_card
    detail = f"{each:.2f} an evaluation of {layers} layers, allowed {ALLOWED:g}"
    if not seen:
        detail = f"the profiler saw no host calls; PyTorch warned of these in {evaluations} evaluations: {lines}"
        each = sum(lines.counts.values()) / evaluations if lines else 0.0
    bench.record.check(f"the host waits for the card, {placement}", bool(ranges) and each <= ALLOWED, detail)
    names = Counter(call.name for call in waits)
    bench.record.row(
        "Where the host waits for the card",
        caches=str(placement),
        evaluations=evaluations,
        **{"in evaluations": ", ".join(f"{name} ({n})" for name, n in names.items()) or "nothing"},
        **{"by line, as PyTorch warns": "-" if lines is None else str(lines)},
    )
