"""Who samples a plan, and where the caches are: as the user chose, or what `auto` stands for on these devices."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from liveavatar_runtime.device_kinds import shares_ram
from liveavatar_runtime.devices import AUTO
from liveavatar_runtime.dit.placement import ON_DEVICE, Placement
from liveavatar_runtime.planning.memory import UNKNOWN_MEMORY, CacheChoice, Machine, choose_placement

from .memory import device_memory, free_ram, on_disk_bytes, tells_memory
from .sampling_job import SamplingJob
from .stage_models import (
    PIPELINES,
    describe_stages,
    device_shares,
    own_place,
    plan_pipeline,
    timed_work,
    usable_memory,
)
from .worker_model import worker_placement

if TYPE_CHECKING:
    from liveavatar_runtime.planning.stages import StagePlan


@dataclass(frozen=True)
class ChosenExecutor:
    """An executor by name, and where its caches are. `stages`: what each device holds, for a pipeline in this process;
    `why`: for the node, if `auto` chose it."""

    name: str
    placement: Placement
    stages: "StagePlan | None" = None
    why: str = ""

    def facts(self, job: SamplingJob) -> tuple[str, ...]:
        """For the node: what the user has not chosen."""
        where = "" if self.placement == ON_DEVICE else str(self.placement)
        stages = "" if self.stages is None else describe_stages(job.model, self.stages, job.plan)
        return tuple(filter(None, (self.why, where, stages)))


def choose_executor(job: SamplingJob, caches: CacheChoice) -> ChosenExecutor:
    """Raises MachineError when nothing fits."""
    name, why = executor_for(job, caches)
    if job.model.workers is not None:
        return ChosenExecutor(name, worker_placement(job, caches), why=why)
    if name in PIPELINES:
        stages = plan_pipeline(job, name, caches)
        return ChosenExecutor(name, stages.placement, stages, why)
    model, machine = job.model, machine_of(job)
    asked = caches.kv_cache, caches.kv_dtype, caches.schedule
    return ChosenExecutor(name, choose_placement(model.config, job.plan, model.dtype, machine, *asked), why=why)


def machine_of(job: SamplingJob) -> Machine:
    """Memory that there is; the blocks are decoded while the next ones are sampled, so the VAE needs its part."""
    home, patcher = job.model.home, job.model.patcher
    memory = device_memory(home) if tells_memory(home) else UNKNOWN_MEMORY
    machine = Machine(device=memory, ram=free_ram(), weights=patcher.model_size(), beside=job.decoder_bytes)
    if not shares_ram(home):
        return machine
    return replace(machine, pool=device_memory(torch.device("cpu")), on_disk=on_disk_bytes(patcher))


def executor_for(job: SamplingJob, caches: CacheChoice) -> tuple[str, str]:
    """Its name, and for the node why `auto` chose it; nothing when the user did."""
    model = job.model
    if model.workers is not None or model.executor != AUTO:
        return model.executor, ""
    from liveavatar_runtime.planning import choice
    from liveavatar_runtime.planning.machines import RTX_4090
    from liveavatar_runtime.planning.measured import stages_beside
    from liveavatar_runtime.planning.memory import placements_of

    devices, home = model.devices, job.vae.patcher.load_device
    beside, sharing = job.decoder_bytes, stages_beside(devices)
    one_device = sharing[0] == len(devices)
    timed = timed_work(model, job.plan, not one_device)
    # Where nothing was measured, only how the work compares with the links depends on the rate.
    rates = [speed * (timed.rate or RTX_4090.flops) for speed in timed.speeds]
    decoder = devices.index(home) if home in devices else None
    shares = [size + beside * (number == decoder) for number, size in enumerate(device_shares(job))]
    places = choice.Places(
        stages=[choice.Place(size, rate) for size, rate in zip(shares, rates, strict=True)],
        alone=choice.Place(usable_memory(devices[0]), rates[0] * sharing[0]),
        one_device=one_device,
        decoder=decoder,
        decoder_bytes=beside,
        # The weights are in RAM already, wherever they go from there.
        ram=free_ram() + model.patcher.model_size(),
    )
    placements = placements_of(own_place(caches.kv_cache, devices), caches.kv_dtype)
    chosen = choice.choose_executor(timed.work, places, placements)
    return chosen.executor, str(chosen)
