"""What is known of a run before it begins: settings, devices, versions."""

import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from liveavatar_runtime import VERSION

from .card_memory import driver_version
from .memory_watch import FreeingWays
from .speed_records import Foreseen, foreseen, speed_key

if TYPE_CHECKING:
    from liveavatar_runtime.planning.observed import SpeedKey

    from .prepared_job import PreparedJob


@dataclass(frozen=True, eq=False)
class RunFacts:
    """settings: by name, for the report. devices: those of this process that work; elsewhere: those of workers on this
    machine. ways: what frees memory of a device. key: what decides the speed, None where nobody here knows; foreseen:
    what was expected."""

    settings: Mapping[str, object]
    devices: tuple[torch.device, ...]
    elsewhere: tuple[torch.device, ...]
    ways: FreeingWays
    key: "SpeedKey | None"
    foreseen: Foreseen


def facts_of(work: "PreparedJob") -> RunFacts:
    """Of a job that is about to be sampled."""
    from liveavatar_runtime.planning.out_of_memory import ram_ways, sampling_ways

    job, placement = work.job, work.executor.placement
    model = job.model
    here = model.devices_here if model.workers is None else ()

    def ways(device: torch.device) -> list[str]:
        if device.type == "cpu" and any(found.type != "cpu" for found in here):
            return ram_ways(job.work, placement)
        return sampling_ways(job.work, placement, device)

    key = speed_key(work)
    return RunFacts(
        settings=settings_of(work),
        devices=(*here, job.vae.patcher.load_device),
        elsewhere=model.devices if model.workers is not None else (),
        ways=ways,
        key=key,
        foreseen=foreseen(work, key),
    )


def settings_of(work: "PreparedJob") -> dict[str, object]:
    """What was chosen, and what `auto` stands for."""
    model, executor = work.job.model, work.executor
    stages, devices = executor.stages, model.devices_here
    # "/": as the exact rate is written, and no number of JSON.
    plan = {**asdict(work.job.plan), "fps": str(work.job.plan.fps)}
    return {
        "plan": plan,
        "model": model.origin.model,
        "loras": [f"{name} at {strength:g}" for name, strength in model.origin.loras],
        "dtype": str(model.dtype).removeprefix("torch."),
        "layers": model.config.num_layers,
        "width_of_a_layer": model.config.dim,
        "executor": model.executor if stages is None else stages.executor,
        "devices": [str(device) for device in devices] or ["of other machines"],
        "executor_why": list(executor.told),
        "caches": str(executor.placement),
        "attention": work.attention.name,
        "compile": work.compile_layers,
    }


def versions() -> dict[str, object]:
    """Of what computes in this process; None where nobody says it."""
    from comfyui_version import __version__ as comfyui

    cuda = torch.version.cuda or getattr(torch.version, "hip", None)
    return {
        "pack": VERSION,
        "comfyui": comfyui,
        "torch": torch.__version__,
        "cuda": cuda,
        "driver": driver_version(),
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def device_name(device: str) -> str:
    """Of a card as its maker calls it; of the processor as the system calls it."""
    place = torch.device(device)
    if place.type == "cuda":
        return torch.cuda.get_device_name(place)
    return processor_name() if place.type == "cpu" else place.type


@lru_cache(1)
def processor_name() -> str:
    # Linux tells Python only the architecture.
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            return f"{names[0]} ({len(names)} threads)"
    return platform.processor() or platform.machine()
