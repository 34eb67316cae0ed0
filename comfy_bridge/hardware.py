"""The devices of this process, as a plan for a job sees them."""

from collections.abc import Iterable
from dataclasses import replace

import torch

from liveavatar_runtime.device_kinds import shares_ram
from liveavatar_runtime.dit.placement import Placement
from liveavatar_runtime.planning.device import RESERVED_SHARE, Device
from liveavatar_runtime.planning.machines import Machines
from liveavatar_runtime.planning.measured import Measurements, Timed, measured_on, place_of, stages_beside
from liveavatar_runtime.planning.memory import streamed_bytes
from liveavatar_runtime.planning.workload import Workload

from .memory import device_memory, free_ram, make_room, tells_memory
from .sampling_job import SamplingJob

_MEASUREMENTS = Measurements()


def machines_of(job: SamplingJob) -> Machines:
    """The model's devices, of which nothing was measured: they count as equally fast."""
    return _machines(job, Timed(job.work, (1.0,) * len(job.model.devices_here)))


def measured_machines(job: SamplingJob) -> tuple[Workload, Machines]:
    """The work and the model's devices with their speeds, which are measured before the first plan of a size."""
    timed = measured_on(job.work, job.model.devices_here, _MEASUREMENTS, make_room)
    return timed.work, _machines(job, timed)


def _machines(job: SamplingJob, timed: Timed) -> Machines:
    devices, decoder = job.model.devices_here, place_of(job.vae.patcher.load_device)
    decodes = [place_of(device) == decoder for device in devices]
    found = [
        replace(
            device_of(device),
            occupied=job.decoder_bytes if decodes_too else 0,
            shared_by=stages,
            flops=speed * (timed.rate or _assumed_rate()),
        )
        for device, decodes_too, stages, speed in zip(
            devices, decodes, stages_beside(devices), timed.speeds, strict=True
        )
    ]
    return Machines.here(found, decodes.index(True) if True in decodes else None)


def in_all(job: SamplingJob, machines: Machines) -> Machines:
    """The same devices with all the system's memory that weights leave, whatever is free of it at the moment."""
    every = device_memory(torch.device("cpu"))
    room = sum({place_of(device): found.usable - found.occupied for device, found in _paired(job, machines)}.values())
    weights = streamed_bytes(job.work, room, Placement("ram")) if job.work.on_disk_bytes == 0 else 0
    ram = max(0, int(every * (1 - RESERVED_SHARE) - weights))
    return replace(machines, devices=tuple(replace(device, ram=ram) for device in machines.devices))


def _paired(job: SamplingJob, machines: Machines) -> Iterable[tuple[torch.device, Device]]:
    return zip(job.model.devices_here, machines.devices, strict=True)


def _assumed_rate() -> float:
    """Where nothing was measured: only how the work compares with the links depends on it."""
    from liveavatar_runtime.planning.presets import RTX_4090

    return RTX_4090.flops


def device_of(device: torch.device) -> Device:
    """A device of this machine, for nothing else but sampling."""
    return Device(
        name=str(device),
        kind=device.type,
        memory=device_memory(device) if tells_memory(device) else None,
        ram=free_ram(),
        pool=device_memory(torch.device("cpu")) if shares_ram(device) else None,
    )
