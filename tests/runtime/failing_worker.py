"""A worker that fails on purpose: the seed of a plan says how. Run by tests in place of the worker module."""

import argparse
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from liveavatar_runtime.pipeline.schedule import Operation, PipelineSchedule, Span
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import Evaluation, Executor, SamplingRequest, SamplingRun
from liveavatar_runtime.vae.online_decoder import OnlineDecoder
from liveavatar_workers.rank import decoder_rank, serve, worker
from liveavatar_workers.rank.pipeline_worker import PipelinePart
from liveavatar_workers.rank.ranks import Rank

RAISES, KILLED, STOPPED, HANGS, DIVES = 7001, 7002, 7003, 7004, 7005
"""Seeds: rank 1 raises / is killed / is stopped / sleeps; rank 0 is killed. At block 2 of a run from 0."""
FAILING_BLOCK, FAILING_STEP = 2, 1
RAISES_ON, HANGS_ON = 7001.0, 7002.0
"""First number of the latents: the rank that decodes raises / sleeps."""
ABSENT = "LIVEAVATAR_TEST_ABSENT_RANK"


@dataclass(frozen=True)
class FailingExecutor:
    executor: Executor
    rank: Rank

    def run(self, request: SamplingRequest) -> SamplingRun:
        def fail_after_step(evaluation: Evaluation) -> None:
            if (evaluation.block, evaluation.step) == (FAILING_BLOCK, FAILING_STEP) and request.start.first_block == 0:
                fail(request.plan.seed, self.rank.number)
            assert request.after_step is not None
            request.after_step(evaluation)

        return self.executor.run(replace(request, after_step=fail_after_step))


@dataclass(frozen=True)
class FailingSchedule:
    """A pipeline's schedule whose order of work fails on the way."""

    schedule: PipelineSchedule
    plan: ClipPlan
    rank: Rank

    def __getattr__(self, name: str) -> Any:
        return getattr(self.schedule, name)

    def operations(self, stage: int, span: Span) -> Iterator[Operation]:
        for operation in self.schedule.operations(stage, span):
            if (operation.block, operation.step) == (FAILING_BLOCK, FAILING_STEP) and span.first == 0:
                fail(self.plan.seed, self.rank.number)
            yield operation


def fail(seed: int, rank: int) -> None:
    if (seed, rank) == (RAISES, 1):
        raise ValueError("the tensor is made of cheese")
    if (seed, rank) in ((KILLED, 1), (DIVES, 0)):
        os.kill(os.getpid(), signal.SIGKILL)
    if (seed, rank) == (STOPPED, 1):
        os.kill(os.getpid(), signal.SIGSTOP)
    if (seed, rank) == (HANGS, 1):
        time.sleep(1000)


class FailingDecoder(OnlineDecoder):
    def decode(self, latents: Tensor) -> Tensor:
        first = float(latents.flatten()[0])
        if first == RAISES_ON:
            raise ValueError("the latents are rotten")
        if first == HANGS_ON:
            time.sleep(1000)
        return super().decode(latents)


def load(options: argparse.Namespace, rank: Rank) -> serve.Loaded:
    loaded = worker.load_executor(options, rank)
    executor = loaded.executor
    if isinstance(executor, PipelinePart):
        failing: Any = lambda plan: FailingSchedule(executor.schedule(plan), plan, rank)  # noqa: E731
        return replace(loaded, executor=replace(executor, schedule=failing))
    return replace(loaded, executor=FailingExecutor(executor, rank))


if __name__ == "__main__":
    if os.environ["RANK"] == os.environ.get(ABSENT):
        time.sleep(1000)
    decoder_rank.OnlineDecoder = FailingDecoder
    worker.main(load=load)
