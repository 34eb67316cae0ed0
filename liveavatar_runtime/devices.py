"""Names of executors and devices as a user writes them, checked before anything starts."""

import sys
from collections.abc import Sequence

import torch

from .config import AvatarConfig
from .device_kinds import other_accelerator
from .errors import InputError

AUTO, LOCAL, FSDP, TIMESTEP_PIPELINE, LAYER_PIPELINE = "auto", "local", "fsdp", "timestep_pipeline", "layer_pipeline"
EXECUTORS = (AUTO, LOCAL, FSDP, TIMESTEP_PIPELINE, LAYER_PIPELINE)
MAX_DEVICES = 64
GROUPS_NEED = "linux"
"""The system (`sys.platform`) on which groups of worker processes run."""
NO_GROUPS = {
    "win32": "PyTorch for Windows cannot hand open sockets and files to worker processes, and has no NCCL",
    "darwin": "PyTorch has no communication between processes for Apple's GPUs, so workers there would only use the "
    "processor",
}
"""Why there are none elsewhere."""
OLDEST_FOR_GROUPS, OLDEST_FOR_FSDP = (2, 6), (2, 7)
"""Versions of PyTorch that the tests of workers pass with."""


USABLE = ("cuda", "cpu")
"""Kinds of devices that executors can share the work of."""


def all_devices() -> list[torch.device]:
    """Every GPU of this machine, or its processor."""
    return [torch.device("cuda", n) for n in range(torch.cuda.device_count())] or [torch.device("cpu")]


def parse_devices(text: str, accelerator: str | None = None) -> list[torch.device]:
    """Devices of "auto" (all) or of a list such as "cuda:0,cuda:1"; one may be named several times.

    `accelerator`: the kind of GPU that the caller uses, found out by itself if None. Raises InputError for what this
    machine does not have, and for "auto" where its GPU is of a kind that executors cannot use.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    other = accelerator or other_accelerator()
    if names in ([], [AUTO]):
        if other not in (None, *USABLE):
            raise InputError(f"devices is auto, and {_not_usable(other)}. To use the processor here, write: cpu")
        return all_devices()
    foreign = [name for name in names if name.partition(":")[0] == other]
    if other is not None and other not in USABLE and foreign:
        raise InputError(f"devices names {foreign[0]!r}, and {_not_usable(other)}")
    if len(names) > MAX_DEVICES:
        raise InputError(f"devices names {len(names)} devices; allowed are {MAX_DEVICES}")
    return [_parse_device(name) for name in names]


def _not_usable(kind: str) -> str:
    return (
        f"executors that share the work run on CUDA GPUs and processors, not on {kind}, which this machine has. Set "
        "executor to local and devices to auto: that uses it"
    )


def _parse_device(name: str) -> torch.device:
    present = ", ".join(map(str, [*all_devices(), *([torch.device("cpu")] if torch.cuda.is_available() else [])]))
    kind, _, number = name.partition(":")
    index = int(number) if number.isascii() and number.isdigit() and len(number) < 5 else 0 if not number else -1
    if kind == "cpu" and index == 0:
        return torch.device("cpu")
    if kind != "cuda" or not 0 <= index < torch.cuda.device_count():
        raise InputError(f"devices names {name!r}; this machine has {present}. Write them as in: cuda:0,cuda:1")
    return torch.device("cuda", index)


def check_groups(executor: str, platform: str | None = None, version: str = torch.__version__) -> None:
    """Raises InputError where no group of worker processes can run an executor, with the reason and what runs instead.

    `platform`: as `sys.platform`, which it is if None.
    """
    platform = platform or sys.platform
    instead = (
        "What works here: executor local, layer_pipeline and timestep_pipeline in ComfyUI itself, or workers that run "
        "on a Linux machine (docs/WORKERS.md)"
    )
    if platform != GROUPS_NEED:
        why = NO_GROUPS.get(platform, "they were never run there")
        raise InputError(
            f"{executor} in workers: these processes run on Linux only, and this is {platform}: {why}. {instead}"
        )
    major, minor = (int(part) for part in version.split(".")[:2])
    oldest = OLDEST_FOR_FSDP if executor == FSDP else OLDEST_FOR_GROUPS
    if (major, minor) < oldest:
        needed = ".".join(map(str, oldest))
        raise InputError(f"{executor} in workers needs PyTorch {needed} or newer, and this is {version}. {instead}")


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


def resolve(executor: str, devices: Sequence[torch.device]) -> str:
    """The executor that "auto" stands for: local on one device; with several it depends on the plan, and stays auto."""
    return LOCAL if executor == AUTO and len(devices) < 2 else executor
