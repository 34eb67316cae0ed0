"""Executor `local`: the whole model on one device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from ..aligned import align_weights
from ..config import AvatarConfig
from ..dit.kv_cache import ResidentCache
from ..dit.model import CausalWanS2V
from ..dit.placement import ON_DEVICE, Placement
from ..pinned_memory import BY_DRIVER, Pinning
from ..planning.forecast import Forecast, Load, Option, caches_in_ram
from ..planning.machines import Machines
from ..planning.memory import (
    CacheChoice,
    choose_placement,
    resident_bytes,
    streamed_bytes,
    working_bytes,
    working_rows,
)
from ..planning.memory_rows import rows_of, together
from ..planning.out_of_memory import sampling_told
from ..planning.stages import StagePlan
from ..planning.workload import Workload
from ..sampling.block_run import BlockRun
from ..sampling.evaluator import Evaluator, MakeCache, PlacedModel, cache_maker
from ..sampling.run import SamplingRequest
from .kind import ExecutorKind, HereInProcess


@dataclass(frozen=True)
class LocalExecutor:
    """`dtype` is that of hidden states and caches; latents between the steps are always float32.

    `batched`: as many blocks as there are steps go through the model together, so that its weights are read, or
    streamed from RAM, once a block instead of once a step.
    """

    model: CausalWanS2V
    device: torch.device
    dtype: torch.dtype
    make_cache: MakeCache = ResidentCache
    batched: bool = False
    placement: Placement = ON_DEVICE

    @classmethod
    def placed(
        cls, place: PlacedModel, dtype: torch.dtype, placement: Placement, pinning: Pinning = BY_DRIVER
    ) -> "LocalExecutor":
        """With the caches where the memory plan wants them."""
        made = cache_maker(placement, pinning, in_turn=not placement.batched)
        return cls(place.model, place.device, dtype, made, placement.batched, placement)

    def run(self, request: SamplingRequest) -> BlockRun:
        def evaluator() -> Evaluator:
            # Not where weights are loaded: their owner may have put others in their place since.
            align_weights(self.model, self.device)
            return Evaluator(PlacedModel(self.model, self.device), request, self.dtype, self.make_cache)

        plan = request.plan
        told = partial(sampling_told, Workload(self.model.config, plan, self.dtype), self.placement, self.device)
        return BlockRun(evaluator, request, plan.steps if self.batched else 1, told)


def _refusal(devices: Sequence[torch.device], config: AvatarConfig) -> str:
    if len(devices) < 2:
        return ""
    return f"local runs on one device, devices names {len(devices)}; choose another executor"


def _plan(work: Workload, machines: Machines, choice: CacheChoice) -> StagePlan:
    placement = choose_placement(work, machines.devices[0].alone, choice)
    return StagePlan(LOCAL.name, (work.layers,), (work.steps,), placement)


def _build(stages: StagePlan, places: Sequence[PlacedModel], dtype: torch.dtype, pinning: Pinning) -> LocalExecutor:
    (place,) = places
    return LocalExecutor.placed(place, dtype, stages.placement, pinning)


def _forecast(forecast: Forecast) -> Iterator[Option]:
    """The first device alone; weights that do not fit are streamed, all steps of a block in one batch."""
    first, *others = forecast.machines.devices
    # Another one decodes beside nothing.
    decoder = 0 if forecast.machines.decoder == 0 else None
    machines = replace(forecast.machines, devices=(first.alone, *others), decoder=decoder)
    work, placement = forecast.work, forecast.setting.placement
    if work.weights(work.layers) + working_bytes(work, placement) > first.alone.room:
        placement = replace(placement, batched=True)
    room = first.alone.room
    resident, streamed = (of(work, room, placement) for of in (resident_bytes, streamed_bytes))
    # A batch reads the streamed weights once a block, so each step bears its share of the time.
    moving = machines.interconnect.host.seconds(streamed) / work.plan.steps
    on_device = together(rows_of([("weights", resident)]), working_rows(work, placement))
    waiting = max(0.0, streamed - work.on_disk_bytes)
    in_ram = together(rows_of([("streamed weights", waiting)]), caches_in_ram(work, placement))
    load = Load(devices=[on_device], ram=[in_ram])
    yield replace(replace(forecast, machines=machines).single(LOCAL.name, load, moving), streams=streamed > 0)


LOCAL = ExecutorKind(
    name="local",
    shares="",
    here=HereInProcess(plan=_plan, build=_build),
    runs_in_groups=False,
    auto_rank=2,
    refusal=_refusal,
    forecast=_forecast,
)
