"""From the executor and devices that a user chose to workers on this machine."""

from collections.abc import Sequence
from pathlib import Path

import torch

from ..config import AvatarConfig
from ..errors import InputError
from .devices import AUTO, LOCAL, check_devices
from .workers import LocalWorkers

PRECISIONS_IN_WORKERS = ("auto", "bf16", "fp16", "fp32")


def resolve(executor: str, devices: Sequence[torch.device]) -> str:
    """The executor that "auto" stands for: local on one device; with several it depends on the plan, and stays auto."""
    return LOCAL if executor == AUTO and len(devices) < 2 else executor


def local_workers(
    executor: str,
    devices: Sequence[torch.device],
    config: AvatarConfig,
    path: Path,
    loras: Sequence[tuple[Path, float]],
    precision: str,
) -> LocalWorkers:
    """A group on this machine that loads the model when it is first used. Raises InputError for what cannot work."""
    check_devices(executor, list(devices), config)
    if precision not in PRECISIONS_IN_WORKERS:
        raise InputError(
            f"precision is {precision}; with executor {executor} it must be one of {', '.join(PRECISIONS_IN_WORKERS)}, "
            "because its workers load the file themselves"
        )
    names = ",".join(map(str, devices))
    arguments = ["--model", str(path.resolve()), "--executor", executor, "--devices", names, "--precision", precision]
    for lora, strength in loras:
        arguments += ["--lora", str(lora.resolve()), str(strength)]
    return LocalWorkers(len(devices), arguments)
