"""Who samples a plan, and where the caches are: as the user chose, or what `auto` stands for on these devices."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from liveavatar_runtime.devices import AUTO
from liveavatar_runtime.dit.placement import ON_DEVICE, Placement
from liveavatar_runtime.planning.memory import CacheChoice

from .hardware import machines_of, measured_machines, work_of
from .sampling_job import SamplingJob
from .worker_model import worker_placement

if TYPE_CHECKING:
    from liveavatar_runtime.planning.stages import StagePlan


@dataclass(frozen=True)
class ChosenExecutor:
    """An executor by name, and where its caches are. `stages`: what each device of this process holds, None where
    workers sample; `told`: for the node, what the user has not chosen."""

    name: str
    placement: Placement
    stages: "StagePlan | None" = None
    told: tuple[str, ...] = ()


def choose_executor(job: SamplingJob, caches: CacheChoice) -> ChosenExecutor:
    """Raises MachineError when nothing fits."""
    if job.model.workers is not None:
        placement = worker_placement(job, caches)
        return ChosenExecutor(job.model.executor, placement, told=_told("", placement, ""))
    from liveavatar_runtime.executors.table import TABLE, here

    name, why = executor_for(job, caches)
    kind = TABLE[name]
    if kind.shares == "layers" and len(job.model.devices) < job.model.config.num_layers:
        work, machines = measured_machines(job)
    else:
        work, machines = work_of(job), machines_of(job)
    stages = here(name).plan(work, machines, caches)
    told = _told(why, stages.placement, kind.describe(stages, job.model.devices_here))
    return ChosenExecutor(name, stages.placement, stages, told)


def executor_for(job: SamplingJob, caches: CacheChoice) -> tuple[str, str]:
    """Its name, and for the node why `auto` chose it; nothing when the user did."""
    if job.model.executor != AUTO:
        return job.model.executor, ""
    from liveavatar_runtime.executors.choice import choose_executor as choose_among

    work, machines = work_of(job), machines_of(job)
    if not machines.is_one_device:
        work, machines = measured_machines(job)
    choice = choose_among(work, machines, job.decoder_bytes, caches)
    return choice.executor, str(choice)


def _told(why: str, placement: Placement, stages: str) -> tuple[str, ...]:
    where = "" if placement == ON_DEVICE else str(placement)
    return tuple(filter(None, (why, where, stages)))
