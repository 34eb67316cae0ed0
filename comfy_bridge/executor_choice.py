"""Who samples a plan, and where the caches are: as the user chose, or what `auto` stands for on these devices."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from liveavatar_runtime.device_kinds import has_fp8
from liveavatar_runtime.devices import AUTO
from liveavatar_runtime.dit.placement import ON_DEVICE, Placement
from liveavatar_runtime.errors import MachineError, replaced
from liveavatar_runtime.planning.memory import LADDER, CacheChoice, settled

from .hardware import in_all, machines_of, measured_machines
from .refusal import with_advice
from .sampling_job import SamplingJob
from .worker_placement import worker_placement

if TYPE_CHECKING:
    from liveavatar_runtime.planning.machines import Machines
    from liveavatar_runtime.planning.stages import StagePlan
    from liveavatar_runtime.planning.workload import Workload


LOWER_KV_DTYPE = (
    "kv_dtype auto keeps the KV caches as fp8, because those in the model's dtype do not fit into this machine's "
    "memory; this changes the result a little. For caches in the model's dtype choose a smaller size, 3 steps or "
    "window_blocks 2; with kv_dtype fp8 this choice is yours."
)


@dataclass(frozen=True)
class ChosenExecutor:
    """Where the caches are, and `stages`: which executor of this process, and what each device holds; None where
    workers sample. `told`: for the node, what the user has not chosen; `warning`: what of it changes the result."""

    placement: Placement
    stages: "StagePlan | None" = None
    told: tuple[str, ...] = ()
    warning: str = ""


def choose_executor(job: SamplingJob, caches: CacheChoice) -> ChosenExecutor:
    """Raises MachineError, with the changes that would help, when nothing fits."""
    with replaced(MachineError, partial(with_advice, job, caches)):
        return _planned(job, caches)


def _planned(job: SamplingJob, caches: CacheChoice) -> ChosenExecutor:
    if job.model.workers is not None:
        placement = worker_placement(job, caches)
        return ChosenExecutor(placement, told=_told("", placement, ""), warning=_warning(caches, placement))
    from liveavatar_runtime.executors.table import TABLE, here

    work, machines = _work_and_machines(job)

    def plan(caches: CacheChoice, machines: "Machines") -> "tuple[StagePlan, str]":
        name, why = _name_and_reason(job, caches, work, machines)
        return here(name).plan(work, machines, caches), why

    ladder = LADDER if all(map(has_fp8, job.model.devices_here)) else LADDER[:1]
    kept = settled(caches, partial(_fits, partial(plan, machines=in_all(job, machines))), ladder)
    stages, why = plan(kept, machines)
    told = _told(why, stages.placement, TABLE[stages.executor].describe(stages, job.model.devices_here))
    return ChosenExecutor(stages.placement, stages, told, _warning(caches, stages.placement))


def _warning(asked: CacheChoice, placement: Placement) -> str:
    """Where `auto` has chosen what changes the result."""
    return LOWER_KV_DTYPE if asked.kv_dtype == AUTO and placement.kv_dtype != LADDER[0] else ""


def _fits(plan: "Callable[[CacheChoice], object]", caches: CacheChoice) -> bool:
    with suppress(MachineError):
        plan(caches)
        return True
    return False


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
