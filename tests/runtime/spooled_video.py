"""A small real video that is sampled through a spool, also in a process of its own that can be killed."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tiny_avatar import CONFIG, random_conditions, random_model
from torch import Tensor

from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.planning.memory import ring_bytes
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.sampling.block_run import BlockRun
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import Evaluation, KeepRings, RunStart, SamplingRequest
from liveavatar_runtime.spool.latent_stream import LatentStream, StartRun, Storage, StreamHooks
from liveavatar_runtime.spool.spool import Spool
from liveavatar_runtime.spool.states import StateSettings

CPU = torch.device("cpu")
PLAN = ClipPlan(
    num_clip=8,
    infer_frames=24,
    width=64,
    height=64,
    keep_aspect=False,
    steps=2,
    relative_distance=None,
    window_blocks=3,
)


@dataclass
class Sampling:
    """Begins runs of a random model; notes where they began and which blocks were sampled to the end."""

    starts: list[RunStart] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    stop_at: tuple[int, int] | None = None
    """Block and step at which it is interrupted, once."""
    after_block: Callable[[int], Any] = lambda block: None

    def __post_init__(self) -> None:
        # At this size threads only wait for each other.
        torch.set_num_threads(1)
        self._executor = LocalExecutor(random_model(), CPU, torch.float32)
        self.conditions = random_conditions()

    def __call__(self, plan: ClipPlan, start: RunStart, keep_rings: KeepRings) -> BlockRun:
        self.starts.append(start)
        return self._executor.run(SamplingRequest(self.conditions, plan, start, self._after_step, keep_rings))

    def _after_step(self, evaluation: Evaluation) -> None:
        if (evaluation.block, evaluation.step) == self.stop_at:
            self.stop_at = None
            raise InterruptedError("the button")
        if evaluation.step == PLAN.steps - 1:
            self.blocks.append(evaluation.block)
            self.after_block(evaluation.block)

    @property
    def first_blocks(self) -> list[int]:
        return [start.first_block for start in self.starts]


HEADER_BYTES = 4096
"""More than the header of a state's file takes."""
STATE_BYTES = ring_bytes(Workload(CONFIG, PLAN, torch.float32))


def stream_of(sampling: StartRun, folder: Path, plan: ClipPlan = PLAN, **options: Any) -> LatentStream:
    """`options`: of `StreamHooks`, and states."""
    storage = Storage(Spool(folder), options.pop("states", StateSettings()))
    return LatentStream(plan, random_conditions().motion[:, -7:], sampling, storage, StreamHooks(**options))


def settings(states: int) -> StateSettings:
    """A budget for so many states, each too large to be kept after every clip when there are fewer than two."""
    return StateSettings(STATE_BYTES, states * (STATE_BYTES + HEADER_BYTES))


def latents_of(stream: LatentStream) -> Tensor:
    return torch.cat([block.latents for block in stream], dim=1)


def sample_in_process(folder: str, log: str, plan: ClipPlan) -> None:
    """Make the video; append the number of each block to `log` as soon as it is sampled."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sampling = Sampling(after_block=lambda block: os.write(descriptor, f"{block}\n".encode()))
    for _ in stream_of(sampling, Path(folder), plan):
        pass


def write_large_clips(folder: str) -> None:
    """Until it is ended: each takes long enough to be caught half-written."""
    spool = Spool(Path(folder))
    assert spool.try_lock()
    for clip in range(1000):
        spool.write_clip(clip, torch.zeros(16, 2**20))
