"""What a job samples, and the devices of this process for it, as plans see both."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from liveavatar_runtime.device_kinds import shares_ram
from liveavatar_runtime.planning.device import Device
from liveavatar_runtime.planning.machines import RTX_4090, Machines
from liveavatar_runtime.planning.measured import Measurements, Timed, measured_on, stages_beside
from liveavatar_runtime.planning.workload import Workload

from .memory import device_memory, free_ram, make_room, on_disk_bytes, tells_memory
from .sampling_job import SamplingJob

_MEASUREMENTS = Measurements()


def work_of(job: SamplingJob) -> Workload:
    """With the weights as they are kept."""
    model = job.model
    stored, on_disk = model.patcher.model_size(), on_disk_bytes(model.patcher)
    return Workload(model.config, job.plan, model.dtype, stored_bytes=stored, on_disk_bytes=on_disk)


def machines_of(job: SamplingJob) -> Machines:
    """The model's devices, of which nothing was measured: they count as equally fast."""
    devices = job.model.devices_here
    return _machines(job, Timed(work_of(job), (1.0,) * len(devices)), [1] * len(devices))


def measured_machines(job: SamplingJob) -> tuple[Workload, Machines]:
    """The work and the model's devices with their speeds, which are measured before the first plan of a size."""
    devices = job.model.devices_here
    timed = measured_on(work_of(job), devices, _MEASUREMENTS, make_room)
    return timed.work, _machines(job, timed, stages_beside(devices))


def _machines(job: SamplingJob, timed: Timed, shares: Sequence[int]) -> Machines:
    """`shares`: how many stages share each speed of `timed`."""
    devices = job.model.devices_here
    decodes = [_same(device, job.vae.patcher.load_device) for device in devices]
    # Where nothing was measured, only how the work compares with the links depends on the rate.
    rate = timed.rate or RTX_4090.flops
    found = [
        replace(
            device_of(device),
            occupied=job.decoder_bytes if decodes_too else 0,
            shared_by=stages,
            flops=speed * share * rate,
        )
        for device, decodes_too, stages, speed, share in zip(
            devices, decodes, stages_beside(devices), timed.speeds, shares, strict=True
        )
    ]
    return Machines.here(found, decodes.index(True) if True in decodes else None)


def device_of(device: torch.device) -> Device:
    """A device of this machine, for nothing else but sampling."""
    return Device(
        name=str(device),
        kind=device.type,
        memory=device_memory(device) if tells_memory(device) else None,
        ram=free_ram(),
        pool=device_memory(torch.device("cpu")) if shares_ram(device) else None,
    )


def _same(device: torch.device, other: torch.device) -> bool:
    """The processor is one device, whatever its number."""
    return device == other or device.type == other.type == "cpu"
