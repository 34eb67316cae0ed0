"""Executors `layer_pipeline` and `timestep_pipeline` on the devices of one machine, in this process."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from ..aligned import align_weights
from ..config import AvatarConfig
from ..dit.kv_cache import ResidentCache
from ..dit.placement import ON_DEVICE, Placement
from ..errors import InputError
from ..pinned_memory import Pinning
from ..pipeline.schedule import LayerSchedule, PipelineSchedule, TimestepSchedule, check_layers, split_steps
from ..pipeline.stage import Output, Stage, StageTask
from ..pipeline.stage_model import share_of
from ..pipeline.threads import PipelineRun, StagePort, StageWorker
from ..pipeline.transport import Transport
from ..planning.forecast import Forecast, Option
from ..planning.machines import Machines
from ..planning.memory import CacheChoice, choose_placement
from ..planning.out_of_memory import sampling_told
from ..planning.stages import StagePlan, plan_layers
from ..planning.workload import Workload
from ..sampling.evaluator import MakeCache, PlacedModel, cache_maker
from ..sampling.run import SamplingRequest
from .kind import ExecutorKind, HereInProcess, too_many_for_layers


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
    part = task.schedule.parts[number]
    whole = Workload(place.model.config, task.request.plan, task.dtype)
    work = whole.of_stage(part.layers, part.steps, task.schedule.blocks_at_a_stage)
    with sampling_told(work, task.placement, place.device):
        Stage(number, place, task, transport, output).run()


def caches_for(machines: Machines, choice: CacheChoice) -> CacheChoice:
    """The choice with devices whose memory is the system's: for those, RAM is no other place."""
    shared = all(device.pool is not None for device in machines.devices)
    return replace(choice, kv_cache="device") if shared and choice.kv_cache == "auto" else choice


def _refuse_layers(devices: Sequence[torch.device], config: AvatarConfig) -> str:
    return too_many_for_layers(LAYER_PIPELINE.name, devices, config)


def _plan_layers(work: Workload, machines: Machines, choice: CacheChoice) -> StagePlan:
    devices = machines.devices
    # On the processor stages and decoder share the same cores, however the layers are split.
    decodes_first = machines.decoder == 0 and devices[0].kind != "cpu"
    layers, placement = plan_layers(work, devices, caches_for(machines, choice).places(), decodes_first)
    return StagePlan(LAYER_PIPELINE.name, layers, (work.steps,) * len(layers), placement)


def _build_layers(
    stages: StagePlan, places: Sequence[PlacedModel], dtype: torch.dtype, pinning: Pinning
) -> LayerPipelineExecutor:
    parts = [
        PlacedModel(share_of(place.model, layers), place.device)
        for place, layers in zip(places, stages.layers, strict=True)
    ]
    caches = cache_maker(stages.placement, pinning)
    return LayerPipelineExecutor(parts, stages.layers, dtype, caches, stages.placement)


def _forecast_layers(forecast: Forecast) -> Iterator[Option]:
    if 1 < forecast.cards <= forecast.work.config.num_layers:
        schedule = LayerSchedule(forecast.split(), forecast.work.plan.steps)
        yield forecast.pipeline(LAYER_PIPELINE.name, schedule)


def _plan_steps(work: Workload, machines: Machines, choice: CacheChoice) -> StagePlan:
    """Every stage has the whole model; the one with the least room and the most steps decides."""
    steps = tuple(split_steps(work.plan.steps, len(machines.devices)))
    narrowest = min(machines.devices[: len(steps)], key=lambda device: device.room)
    part = replace(work, plan=replace(work.plan, steps=max(map(len, steps))))
    in_sequence = replace(caches_for(machines, choice), schedule="sequential")
    placement = choose_placement(part, replace(narrowest, pool=None), in_sequence)
    return StagePlan(TIMESTEP_PIPELINE.name, (work.layers,) * len(steps), steps, placement)


def _build_steps(
    stages: StagePlan, places: Sequence[PlacedModel], dtype: torch.dtype, pinning: Pinning
) -> TimestepPipelineExecutor:
    return TimestepPipelineExecutor(places, dtype, cache_maker(stages.placement, pinning), stages.placement)


def _forecast_steps(forecast: Forecast) -> Iterator[Option]:
    if forecast.cards > 1:
        steps = split_steps(forecast.work.plan.steps, forecast.cards)
        yield forecast.pipeline(TIMESTEP_PIPELINE.name, TimestepSchedule(forecast.work.config.num_layers, steps))


TIMESTEP_PIPELINE = ExecutorKind(
    name="timestep_pipeline",
    shares="steps",
    here=HereInProcess(plan=_plan_steps, build=_build_steps),
    runs_in_groups=True,
    auto_rank=1,
    forecast=_forecast_steps,
)
LAYER_PIPELINE = ExecutorKind(
    name="layer_pipeline",
    shares="layers",
    here=HereInProcess(plan=_plan_layers, build=_build_layers),
    runs_in_groups=True,
    auto_rank=0,
    refusal=_refuse_layers,
    forecast=_forecast_layers,
)
