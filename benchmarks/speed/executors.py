"""What the executors that share out the work cost beside one device: processor seconds of the same video."""

from collections.abc import Iterator

import torch

from benchmarks.pipelines import candidates, random_conditions, random_model
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import Executor, SamplingRequest

from .paired import paired
from .setup import Row, Setup

BLOCKS, STAGES = 16, 2


def rows(setup: Setup) -> Iterator[Row]:
    cpu = torch.device("cpu")
    model = random_model()
    plan = ClipPlan(num_clip=BLOCKS, infer_frames=12, width=128, height=64, keep_aspect=False)
    conditions = random_conditions(plan)

    def run(executor: Executor) -> None:
        for _ in executor.run(SamplingRequest(conditions, plan)):
            pass

    alone = LocalExecutor(model, cpu, torch.float32)
    for candidate in candidates(model, plan, STAGES):
        found = paired(lambda c=candidate: run(c.executor), lambda: run(alone), cpu, setup.few(5))
        yield Row("executors", f"{candidate.name}, {STAGES} stages, {BLOCKS} blocks", "local", found.as_row())
