"""Executors `layer_pipeline` and `timestep_pipeline` on the devices of one machine, in this process."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from ..aligned import align_weights
from ..dit.kv_cache import ResidentCache
from ..dit.placement import ON_DEVICE, Placement
from ..dit.staged_cache import StagedCache
from ..errors import InputError
from ..pipeline.schedule import LayerSchedule, PipelineSchedule, TimestepSchedule, check_layers, split_steps
from ..pipeline.stage import Output, Stage, StageTask
from ..pipeline.threads import PipelineRun, StagePort, StageWorker
from ..pipeline.transport import Transport
from ..planning.out_of_memory import sampling_told
from ..sampling.evaluator import MakeCache, PlacedModel
from ..sampling.run import SamplingRequest


@dataclass(frozen=True)
class LayerPipelineExecutor:
    """Each place holds its range of layers (`stage_model.spread_layers`) and runs all steps of them."""

    places: Sequence[PlacedModel]
    layers: tuple[range, ...]
    dtype: torch.dtype
    make_cache: MakeCache = ResidentCache
    placement: Placement = ON_DEVICE

    def __post_init__(self) -> None:
        check_layers(self.layers)
        if len(self.places) != len(self.layers):
            raise InputError(f"{len(self.places)} places for {len(self.layers)} ranges of layers; give one for each")

    def run(self, request: SamplingRequest) -> PipelineRun:
        return run_stages(self.places, task_of(self, request, LayerSchedule(self.layers, request.plan.steps)))


@dataclass(frozen=True)
class TimestepPipelineExecutor:
    """Each place holds the whole model and runs its share of the steps; places beyond the steps stay idle."""

    places: Sequence[PlacedModel]
    dtype: torch.dtype
    make_cache: MakeCache = ResidentCache
    placement: Placement = ON_DEVICE

    def run(self, request: SamplingRequest) -> PipelineRun:
        steps = split_steps(request.plan.steps, len(self.places))
        schedule = TimestepSchedule(self.places[0].model.config.num_layers, steps)
        return run_stages(self.places[: len(steps)], task_of(self, request, schedule))


def cache_maker(placement: Placement) -> MakeCache:
    """Caches of the stages where the memory plan wants them."""
    if placement.resident:
        return ResidentCache
    return partial(
        StagedCache, place=placement.kv_cache, stored=placement.kv_dtype, device_layers=placement.device_layers
    )


def task_of(
    executor: LayerPipelineExecutor | TimestepPipelineExecutor, request: SamplingRequest, schedule: PipelineSchedule
) -> StageTask:
    watched = request.after_step is not None
    return StageTask(request, schedule, executor.dtype, executor.make_cache, executor.placement, watched)


def run_stages(places: Sequence[PlacedModel], task: StageTask) -> PipelineRun:
    def worker(number: int, place: PlacedModel) -> StageWorker:
        def work(port: StagePort) -> None:
            run_told(number, place, task, port, port)

        return StageWorker(place.device, work)

    # Before the threads begin, which may share modules.
    for place in places:
        align_weights(place.model, place.device)
    workers = [worker(number, place) for number, place in enumerate(places)]
    return PipelineRun(workers, task)


def run_told(number: int, place: PlacedModel, task: StageTask, transport: Transport, output: Output) -> None:
    """Runs a stage. Raises DeviceFullError, with what frees memory of its share, when its device is full."""
    part, config = task.schedule.parts[number], place.model.config
    share = replace(config, num_layers=len(part.layers), audio_inject_layers=())
    plan = replace(task.request.plan, steps=len(part.steps))
    with sampling_told(share, plan, task.dtype, task.placement, place.device):
        Stage(number, place, task, transport, output).run()
