"""Who samples a plan, and where the caches are: as the user chose, or what `auto` stands for on these devices."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from liveavatar_runtime.devices import AUTO
from liveavatar_runtime.dit.placement import ON_DEVICE, Placement
from liveavatar_runtime.planning.memory import CacheChoice

from .hardware import machines_of, measured_machines
from .sampling_job import SamplingJob
from .worker_model import worker_placement

if TYPE_CHECKING:
    from liveavatar_runtime.planning.machines import Machines
    from liveavatar_runtime.planning.stages import StagePlan
    from liveavatar_runtime.planning.workload import Workload


@dataclass(frozen=True)
class ChosenExecutor:
    """Where the caches are, and `stages`: which executor of this process, and what each device holds; None where
    workers sample. `told`: for the node, what the user has not chosen."""

    placement: Placement
    stages: "StagePlan | None" = None
    told: tuple[str, ...] = ()


def choose_executor(job: SamplingJob, caches: CacheChoice) -> ChosenExecutor:
    """Raises MachineError when nothing fits."""
    if job.model.workers is not None:
        placement = worker_placement(job, caches)
        return ChosenExecutor(placement, told=_told("", placement, ""))
    from liveavatar_runtime.executors.table import TABLE, here

    work, machines = _work_and_machines(job)
    name, why = _name_and_reason(job, caches, work, machines)
    stages = here(name).plan(work, machines, caches)
    told = _told(why, stages.placement, TABLE[name].describe(stages, job.model.devices_here))
    return ChosenExecutor(stages.placement, stages, told)


def _work_and_machines(job: SamplingJob) -> "tuple[Workload, Machines]":
    """With the devices' speeds where they decide something: who samples, or how the layers are split."""
    from liveavatar_runtime.executors.table import TABLE
    from liveavatar_runtime.planning.measured import decides_split

    machines, name = machines_of(job), job.model.executor
    if name == AUTO:
        decides = not machines.is_one_device
    else:
        decides = TABLE[name].shares == "layers" and decides_split(job.work, len(machines.devices))
    return measured_machines(job) if decides else (job.work, machines)


def _name_and_reason(job: SamplingJob, caches: CacheChoice, work: "Workload", machines: "Machines") -> tuple[str, str]:
    """Who samples, and for the node why `auto` chose it; nothing when the user did."""
    if job.model.executor != AUTO:
        return job.model.executor, ""
    from liveavatar_runtime.executors.choice import choose_executor as choose_among

    choice = choose_among(work, machines, job.decoder_bytes, caches)
    return choice.executor, str(choice)


def _told(why: str, placement: Placement, stages: str) -> tuple[str, ...]:
    where = "" if placement == ON_DEVICE else str(placement)
    return tuple(filter(None, (why, where, stages)))
