"""A plan that DiT Sampler cannot run, refused with the changes that make it fit: those that Plan Check gives."""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from liveavatar_runtime.device_kinds import shares_ram
from liveavatar_runtime.devices import all_devices
from liveavatar_runtime.errors import MachineError
from liveavatar_runtime.planning.measured import place_of

from .hardware import machines_of
from .memory import device_memory, free_ram
from .sampling_job import weights_in_ram

if TYPE_CHECKING:
    from liveavatar_runtime.executors.plan_case import Case
    from liveavatar_runtime.planning.memory import CacheChoice

    from .sampling_job import SamplingJob

TOLD = 3
"""Pieces of advice in a message."""


def with_advice(job: "SamplingJob", caches: "CacheChoice", error: MachineError) -> MachineError:
    """The planner's refusal with what would help."""
    from liveavatar_runtime.executors.plan_advice import fitting
    from liveavatar_runtime.executors.plan_case import answer
    from liveavatar_runtime.executors.plan_report import settings_of

    found = answer(case_of(job, caches))
    ways = [] if found.fits else fitting(found)[:TOLD]
    if not ways:
        return MachineError(f"{error} No change of the settings helps; Plan Check says how much memory would.")
    told = " or ".join(map(settings_of, ways))
    return MachineError(f"{error} What would help, the least harm first: {told}. Plan Check tells it before a run.")


def case_of(job: "SamplingJob", caches: "CacheChoice") -> "Case":
    """A job as Plan Check asks about it."""
    from liveavatar_runtime.executors.plan_case import Case, Decoding

    vae, devices, machines = job.vae, job.model.devices_here, machines_of(job)
    decoder, in_all = place_of(vae.patcher.load_device), device_memory(torch.device("cpu"))
    free, held = free_ram(), 0 if shares_ram(devices[0]) else weights_in_ram(job)
    gpus = [device for device in all_devices() if device.type == "cuda"]
    every = None
    if devices[0].type == "cuda" and len(gpus) > len(set(devices)):
        every = replace(
            machines, devices=(replace(machines.devices[0], ram=free),) * len(gpus), machine_of=(0,) * len(gpus)
        )
    return Case(
        work=job.work,
        machines=replace(machines, devices=tuple(replace(device, ram=free) for device in machines.devices)),
        decodes=tuple(place_of(device) == decoder for device in devices),
        vae=Decoding(vae.patcher.model.config, vae.dtype, vae.patcher.model_size() // vae.dtype.itemsize),
        ram=in_all,
        taken=in_all - free - held,
        weights_in_ram=held,
        executor=job.model.executor,
        caches=caches,
        every=every,
    )
