"""Executors `layer_pipeline` and `timestep_pipeline` on the devices of one machine, in this process."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from ..aligned import align_weights
from ..dit.kv_cache import ResidentCache
from ..dit.staged_cache import StagedCache
from ..errors import InputError
from ..planning.memory import ON_DEVICE, Placement
from ..sampling.block_loop import FROM_THE_BEGINNING, AfterStep, KeepRings, RunStart
from ..sampling.conditions import Conditions
from ..sampling.plan import ClipPlan
from .in_process import PipelineRun, StagePort, StageWorker
from .schedule import LayerSchedule, PipelineSchedule, TimestepSchedule, check_layers, split_steps
from .stage import MakeStageCache, StageTask, run_told
from .stage_model import PlacedModel


@dataclass(frozen=True)
class LayerPipelineExecutor:
    """Each place holds its range of layers (`stage_model.spread_layers`) and runs all steps of them."""

    places: Sequence[PlacedModel]
    layers: tuple[range, ...]
    dtype: torch.dtype
    make_cache: MakeStageCache = ResidentCache
    placement: Placement = ON_DEVICE

    def __post_init__(self) -> None:
        check_layers(self.layers)
        if len(self.places) != len(self.layers):
            raise InputError(f"{len(self.places)} places for {len(self.layers)} ranges of layers; give one for each")

    def run(
        self,
        conditions: Conditions,
        plan: ClipPlan,
        start: RunStart = FROM_THE_BEGINNING,
        after_step: AfterStep | None = None,
        keep_rings: KeepRings | None = None,
    ) -> PipelineRun:
        schedule = LayerSchedule(self.layers, plan.steps)
        task = make_task(self, schedule, conditions, plan, start, after_step, keep_rings)
        return run_stages(self.places, task, after_step)


@dataclass(frozen=True)
class TimestepPipelineExecutor:
    """Each place holds the whole model and runs its share of the steps; places beyond the steps stay idle."""

    places: Sequence[PlacedModel]
    dtype: torch.dtype
    make_cache: MakeStageCache = ResidentCache
    placement: Placement = ON_DEVICE

    def run(
        self,
        conditions: Conditions,
        plan: ClipPlan,
        start: RunStart = FROM_THE_BEGINNING,
        after_step: AfterStep | None = None,
        keep_rings: KeepRings | None = None,
    ) -> PipelineRun:
        steps = split_steps(plan.steps, len(self.places))
        schedule = TimestepSchedule(self.places[0].model.config.num_layers, steps)
        task = make_task(self, schedule, conditions, plan, start, after_step, keep_rings)
        return run_stages(self.places[: len(steps)], task, after_step)


def cache_maker(placement: Placement) -> MakeStageCache:
    """Caches of the stages where the memory plan wants them."""
    if placement.resident:
        return ResidentCache
    return partial(
        StagedCache, place=placement.kv_cache, stored=placement.kv_dtype, device_layers=placement.device_layers
    )


def make_task(
    executor: LayerPipelineExecutor | TimestepPipelineExecutor,
    schedule: PipelineSchedule,
    conditions: Conditions,
    plan: ClipPlan,
    start: RunStart,
    after_step: AfterStep | None,
    keep_rings: KeepRings | None,
) -> StageTask:
    return StageTask(
        schedule=schedule,
        plan=plan,
        conditions=conditions,
        dtype=executor.dtype,
        start=start,
        keep_rings=keep_rings,
        want_evaluations=after_step is not None,
        make_cache=executor.make_cache,
        placement=executor.placement,
    )


def run_stages(places: Sequence[PlacedModel], task: StageTask, after_step: AfterStep | None) -> PipelineRun:
    def worker(number: int, place: PlacedModel) -> StageWorker:
        def work(port: StagePort) -> None:
            run_told(number, place.model, place.device, task, port, port)

        return StageWorker(place.device, work)

    # Before the threads begin, which may share modules.
    for place in places:
        align_weights(place.model, place.device)
    workers = [worker(number, place) for number, place in enumerate(places)]
    return PipelineRun(workers, task.schedule, task.plan, task.start.first_block, after_step)
