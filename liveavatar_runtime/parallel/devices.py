"""Names of executors and devices as a user writes them, checked before anything starts."""

import torch

from ..config import AvatarConfig
from ..errors import InputError

AUTO, LOCAL, FSDP, TIMESTEP_PIPELINE, LAYER_PIPELINE = "auto", "local", "fsdp", "timestep_pipeline", "layer_pipeline"
EXECUTORS = (AUTO, LOCAL, FSDP, TIMESTEP_PIPELINE, LAYER_PIPELINE)
MAX_DEVICES = 64


def all_devices() -> list[torch.device]:
    """Every GPU of this machine, or its processor."""
    return [torch.device("cuda", n) for n in range(torch.cuda.device_count())] or [torch.device("cpu")]


def parse_devices(text: str) -> list[torch.device]:
    """Devices of "auto" (all) or of a list such as "cuda:0,cuda:1"; one may be named several times.

    Raises InputError for what this machine does not have.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names in ([], [AUTO]):
        return all_devices()
    if len(names) > MAX_DEVICES:
        raise InputError(f"devices names {len(names)} devices; allowed are {MAX_DEVICES}")
    return [_parse_device(name) for name in names]


def _parse_device(name: str) -> torch.device:
    present = ", ".join(map(str, [*all_devices(), *([torch.device("cpu")] if torch.cuda.is_available() else [])]))
    kind, _, number = name.partition(":")
    index = int(number) if number.isdigit() else 0 if not number else -1
    if kind == "cpu" and index == 0:
        return torch.device("cpu")
    if kind != "cuda" or not 0 <= index < torch.cuda.device_count():
        raise InputError(f"devices names {name!r}; this machine has {present}. Write them as in: cuda:0,cuda:1")
    return torch.device("cuda", index)


def check_executor(name: str) -> str:
    """`name` itself. Raises InputError for an unknown one."""
    if name not in EXECUTORS:
        raise InputError(f"executor is {name!r}; allowed are {', '.join(EXECUTORS)}")
    return name


def check_devices(executor: str, devices: list[torch.device], config: AvatarConfig) -> None:
    """Raises InputError when the executor cannot use these devices for this model."""
    check_executor(executor)
    if executor == LOCAL and len(devices) > 1:
        raise InputError(f"local runs on one device, devices names {len(devices)}; choose another executor")
    if executor in (FSDP, LAYER_PIPELINE) and len(devices) > config.num_layers:
        raise InputError(
            f"{executor} on {len(devices)} devices: the model has {config.num_layers} layers, so at most "
            f"{config.num_layers} devices can share it. Name fewer devices."
        )
    if executor == FSDP:
        kinds = {device.type for device in devices}
        if len(kinds) > 1:
            raise InputError("fsdp needs devices of one kind; name only GPUs, or only cpu")
        if "cuda" in kinds and len(set(devices)) < len(devices):
            raise InputError("fsdp needs a GPU of its own for every rank; name each GPU once")
