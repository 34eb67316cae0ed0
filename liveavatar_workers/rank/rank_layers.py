"""Layers of each rank of a layer pipeline: every rank measures its device, and all decide alike from what all found.

The split is made when the group starts, before any plan is known: for a plan of the default size and steps.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from liveavatar_runtime.config import AvatarConfig
from liveavatar_runtime.planning.device import Device
from liveavatar_runtime.planning.measured import decides_split, kind_of, seconds_on, with_measured
from liveavatar_runtime.planning.stages import split_by_time
from liveavatar_runtime.planning.workload import PartCosts, Workload
from liveavatar_runtime.sampling.plan import ClipPlan

from .ranks import Rank


@dataclass(frozen=True)
class RankFacts:
    """What a rank tells the others: its kind of device, the seconds that were measured on it (None: nothing), and bytes
    that it has in all (None: enough)."""

    kind: str
    seconds: PartCosts | None
    memory: int | None

    @classmethod
    def of(cls, work: Workload, device: torch.device, decides: bool) -> "RankFacts":
        """`decides`: whether there is something to measure for."""
        memory = None
        if device.type == "cuda":
            memory = int(torch.cuda.get_device_properties(device).total_memory)
        return cls(kind_of(device), seconds_on(work, device) if decides else None, memory)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RankFacts":
        seconds = values["seconds"]
        return cls(values["kind"], None if seconds is None else PartCosts(**seconds), values["memory"])

    def device(self, speed: float) -> Device:
        """As plans see it; `speed` is relative to the other ranks'."""
        return Device(name=self.kind, memory=self.memory, flops=speed)


def agree_on_layers(
    rank: Rank, ranks: int, config: AvatarConfig, dtype: torch.dtype, plan: ClipPlan | None = None
) -> tuple[range, ...]:
    """The first `ranks` ranks call it, each gets the same split over all of them."""
    work = Workload(config, plan or ClipPlan(), dtype, dtype.itemsize)
    own = RankFacts.of(work, rank.device, decides_split(work, ranks))
    rank.store.set(f"facts/{rank.number}", json.dumps(asdict(own)))
    rank.wait_for(*(f"facts/{number}" for number in range(ranks)))
    return layers_of(work, [facts_of(rank, number) for number in range(ranks)])


def facts_of(rank: Rank, number: int) -> RankFacts:
    return RankFacts.from_dict(json.loads(rank.store.get(f"facts/{number}")))


def layers_of(work: Workload, facts: Sequence[RankFacts]) -> tuple[range, ...]:
    """Split by time, as far as it fits the devices' memory; devices of one kind count as equally fast.

    Raises InputError with more ranks than layers.
    """
    timed = with_measured(work, [_of_kind(one.kind, facts) for one in facts])
    devices = [one.device(speed) for one, speed in zip(facts, timed.speeds, strict=True)]
    # Where the default plan does not fit, a smaller one may all the same.
    return split_by_time(timed.work, devices)


def _of_kind(kind: str, facts: Sequence[RankFacts]) -> PartCosts | None:
    """The medians over the ranks with this kind of device; None when one of them has measured nothing."""
    found = [one.seconds for one in facts if one.kind == kind]
    if None in found:
        return None
    columns = zip(*(asdict(parts).values() for parts in found if parts is not None), strict=True)
    return PartCosts(*(statistics.median(column) for column in columns))
