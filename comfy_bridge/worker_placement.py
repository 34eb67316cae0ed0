"""Where the caches of workers on this machine are, and what is told where a group of them has too little memory."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from liveavatar_runtime.devices import AUTO
from liveavatar_runtime.errors import MachineError, replaced
from liveavatar_runtime.planning.memory import LADDER, CacheChoice

from .memory import device_memory, free_ram
from .sampling_job import SamplingJob

if TYPE_CHECKING:
    from liveavatar_runtime.dit.placement import Placement
    from liveavatar_runtime.planning.device import Device
    from liveavatar_runtime.planning.forecast import Option
    from liveavatar_runtime.planning.workload import Workload


def worker_placement(job: SamplingJob, caches: CacheChoice) -> "Placement":
    """Where each rank's caches are: planned for devices of this machine, for others as the widgets say.

    Raises MachineError when nothing fits, with the executor that does.
    """
    from liveavatar_runtime.planning.memory import choose_placement, fits, settled

    if not job.model.devices:
        return caches.as_said()
    part, device = _of_a_rank(job), _rank_device(job)
    ranks = len(job.model.devices)
    in_all = replace(device, ram=int(device_memory(torch.device("cpu")) * (1 - device.reserve)) // ranks)
    with replaced(MachineError, partial(_refusal, job, caches, device)):
        return choose_placement(part, device, settled(caches, partial(fits, part, in_all)))


def _of_a_rank(job: SamplingJob) -> "Workload":
    """What a rank samples, with the most weights that one holds at one time: those of its own, and what it gathers."""
    ranks, work = len(job.model.devices), job.work
    option = next(_options(job, job.model.executor, CacheChoice()), None)
    if option is None:
        return replace(work, stored_bytes=work.weights(work.layers) // ranks)
    # Stages of a pipeline differ.
    held = max(sum(row.size for row in rows if row.what in ("weights", "gather buffers")) for rows in option.devices)
    return replace(work, stored_bytes=int(held))


def _rank_device(job: SamplingJob) -> "Device":
    """The smallest, with its share of the host's memory; on the processor that is the device as well."""
    from liveavatar_runtime.executors.table import TABLE
    from liveavatar_runtime.planning.device import Device

    devices = job.model.devices
    memory, kind = min(map(device_memory, devices)), devices[0].type
    own = memory // len(devices) if kind == "cpu" else None
    return Device(
        kind=kind,
        memory=own or memory,
        ram=free_ram() // len(devices),
        occupied=job.decoder_bytes,
        pool=own,
        # What is shared out is gathered from the other ranks, not from system memory.
        streams=TABLE[job.model.executor].shares != "weights",
    )


def _options(job: SamplingJob, executor: str, caches: CacheChoice) -> "Iterator[Option]":
    """What an executor makes of the job on these devices, for each place of the caches."""
    from liveavatar_runtime.executors.table import TABLE
    from liveavatar_runtime.planning.forecast import Forecast, Setting
    from liveavatar_runtime.planning.machines import Machines

    ranks = len(job.model.devices)
    device = replace(_rank_device(job), ram=free_ram())
    machines = Machines.here([device] * ranks)
    for placement in caches.places():
        yield from TABLE[executor].forecast(Forecast(job.work, machines, job.decoder_bytes, Setting(placement)))


def _refusal(job: SamplingJob, caches: CacheChoice, device: "Device", error: BaseException) -> MachineError:
    """With what each rank would hold, row by row, and the executor with which it fits."""
    from liveavatar_runtime.executors.table import TABLE
    from liveavatar_runtime.planning.memory_rows import rows_text, taken
    from liveavatar_runtime.texts import gib

    name = job.model.executor
    # The last that auto has tried.
    caches = replace(caches, kv_dtype=LADDER[-1]) if caches.kv_dtype == AUTO else caches
    options = list(_options(job, name, caches))
    if not options:
        return MachineError(str(error))
    least = min(options, key=lambda option: max(option.memory))
    largest = max(least.devices, key=taken)
    told = (
        f"{name} on {len(job.model.devices)} devices: each would have to hold {gib(taken(largest))} beside the VAE "
        f"({rows_text(largest)}), and {gib(device.room)} may be filled."
    )
    others = (kind.name for kind in TABLE.values() if kind.runs_in_groups and kind.name != name)
    fitting = [other for other in others if any(option.fits for option in _options(job, other, caches))]
    ways = " or ".join(f"executor {other}" for other in fitting)
    advice = f"With the same devices {ways} fits." if ways else "No other executor fits on these devices either."
    return MachineError(
        f"{told} {advice} Smaller sizes, 3 steps and kv_dtype fp8 take less; Plan Check tells how much."
    )
