"""The devices of this process, as a plan for a job sees them."""

from dataclasses import replace

import torch

from liveavatar_runtime.device_kinds import shares_ram
from liveavatar_runtime.planning.device import RESERVED_SHARE, Device
from liveavatar_runtime.planning.machines import Machines
from liveavatar_runtime.planning.measured import Measurements, Timed, measured_on, place_of, stages_beside
from liveavatar_runtime.planning.workload import Workload

from .memory import device_memory, free_ram, make_room, tells_memory
from .sampling_job import SamplingJob, weights_in_ram

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
    held = weights_in_ram(job)
    decodes = [place_of(device) == decoder for device in devices]
    found = [
        replace(
            device_of(device),
            occupied=job.decoder_bytes if decodes_too else 0,
            shared_by=stages,
            ram=free_ram() + (0 if shares_ram(device) else held),
            flops=speed * (timed.rate or _assumed_rate()),
        )
        for device, decodes_too, stages, speed in zip(
            devices, decodes, stages_beside(devices), timed.speeds, strict=True
        )
    ]
    return Machines.here(found, decodes.index(True) if True in decodes else None)


def in_all(job: SamplingJob, machines: Machines) -> Machines:
    """The same devices with all the system's memory, whatever is free of it at the moment."""
    ram = int(device_memory(torch.device("cpu")) * (1 - RESERVED_SHARE))
    return replace(machines, devices=tuple(replace(device, ram=ram) for device in machines.devices))


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
