"""What is known of a kind of executor: a row of the table."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from ..config import AvatarConfig
from ..pinned_memory import Pinning
from ..planning.forecast import Forecast, Option
from ..planning.machines import Machines
from ..planning.memory import CacheChoice
from ..planning.stages import StagePlan
from ..planning.workload import Workload
from ..sampling.evaluator import PlacedModel
from ..sampling.run import Executor


def works_anywhere(devices: Sequence[torch.device], config: AvatarConfig) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class HereInProcess:
    """How an executor runs in the process that asks.

    `plan`: what each device holds; raises MachineError, with what would help, when nothing fits. `build`: the executor
    of that plan in a dtype, from a model for each stage, which has at least its layers; caches in RAM are pinned by the
    last argument.
    """

    plan: Callable[[Workload, Machines, CacheChoice], StagePlan]
    build: Callable[[StagePlan, Sequence[PlacedModel], torch.dtype, Pinning], Executor]


@dataclass(frozen=True, kw_only=True)
class ExecutorKind:
    """`shares`: what its devices share out, with "" it uses one; `here`: None for one that only groups of worker
    processes run; `runs_in_groups`: whether such groups can. `auto_rank`: which one `auto` takes of equally fast ones,
    the lowest first; None where it is never chosen by itself.

    `refusal`: why it cannot use these devices for this model, and what to do; empty where it can. `forecast`: what it
    makes of a workload on machines, if it can use them.
    """

    name: str
    shares: Literal["", "layers", "steps", "weights"]
    here: HereInProcess | None
    runs_in_groups: bool
    auto_rank: int | None
    refusal: Callable[[Sequence[torch.device], AvatarConfig], str] = works_anywhere
    forecast: Callable[[Forecast], Iterator[Option]]
    oldest_torch_in_groups: tuple[int, int] = (2, 6)
    """The version of PyTorch from which on tests of its groups pass."""

    def describe(self, stages: StagePlan, devices: Sequence[torch.device]) -> str:
        """What each device does, a line for each; empty where they share nothing out."""
        parts, line = {
            "layers": (stages.layers, "{device}: layers {first} to {last}"),
            "steps": (stages.steps, "{device}: steps {first} to {last}"),
        }.get(self.shares, ((), ""))
        # There may be more devices than stages.
        lines = (line.format(device=d, first=p[0], last=p[-1]) for d, p in zip(devices, parts, strict=False))
        return "\n".join(lines)


def too_many_for_layers(name: str, devices: Sequence[torch.device], config: AvatarConfig) -> str:
    """For executors that give each device a part of the layers; empty when there are enough of them."""
    if len(devices) <= config.num_layers:
        return ""
    return (
        f"{name} on {len(devices)} devices: the model has {config.num_layers} layers, so at most {config.num_layers} "
        "devices can share it. Name fewer devices."
    )
