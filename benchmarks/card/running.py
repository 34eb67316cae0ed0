"""Runs an executor as a video does and takes the times of its evaluations and blocks."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from liveavatar_runtime.dit.staged_cache import StagedCache
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.sampling.conditions import Conditions
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import Evaluation, Executor, SamplingRequest

from .bench import Bench, Mark

WARM_BLOCKS = 5
"""The ring is full then, and every step has the second sink when clips are one block long."""


def latents_of(executor: Executor, conditions: Conditions, plan: ClipPlan, blocks: int | None = None) -> Tensor:
    """All latents [16, 3 * blocks, h, w] of a run, float32 on the CPU; of the first blocks only, if so asked."""
    run = executor.run(SamplingRequest(conditions, plan))
    try:
        with torch.inference_mode():
            count = plan.num_blocks if blocks is None else blocks
            return torch.cat([next(run).latents for _ in range(count)], dim=1)
    finally:
        run.close()


@dataclass(frozen=True)
class Times:
    """Seconds of each evaluation (without what is done between two blocks), and of each block."""

    evaluations: list[float]
    blocks: list[float]


@dataclass
class Caches:
    """Makes an executor's caches and remembers them, for their traffic."""

    make: Callable[..., Any]
    made: list[Any] = field(default_factory=list)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.made.append(self.make(*arguments, **options))
        return self.made[-1]

    @property
    def moved(self) -> int:
        """Bytes between RAM and device so far."""
        traffic = [cache.traffic for cache in self.made if isinstance(cache, StagedCache)]
        return sum(one.fetched + one.written for one in traffic)


@dataclass(frozen=True)
class Steady:
    """What a run does once its ring is full: times, bytes moved a block, whether all latents were finite."""

    times: Times
    moved: float
    finite: bool


def steady(bench: Bench, executor: LocalExecutor, conditions: Conditions, plan: ClipPlan, blocks: int) -> Steady:
    """Of so many blocks after those that warm up. The evaluations of a batch are one evaluation here."""
    caches = Caches(executor.make_cache)
    marks: list[tuple[int, Mark]] = []

    def after_step(evaluation: Evaluation) -> None:
        marks.append((evaluation.block, Mark.now(bench.device)))

    run = replace(executor, make_cache=caches).run(
        SamplingRequest(conditions, plan, after_step=None if executor.batched else after_step)
    )
    seconds, finite = [], True
    try:
        for _ in range(1 if bench.tiny else WARM_BLOCKS):
            next(run)
        before = caches.moved
        marks.clear()
        for _ in range(blocks):
            start = time.perf_counter()
            # Its latents are on the CPU, so the device has finished.
            finite &= bool(next(run).latents.isfinite().all())
            seconds.append(time.perf_counter() - start)
        moved = (caches.moved - before) / blocks
    finally:
        run.close()
    bench.finish()
    within = [first.until(second) for (a, first), (b, second) in zip(marks, marks[1:], strict=False) if a == b]
    return Steady(Times(within, seconds), moved, finite)


@contextmanager
def exact_float32() -> Iterator[None]:
    """Products and convolutions in float32 are none in tf32 inside."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
