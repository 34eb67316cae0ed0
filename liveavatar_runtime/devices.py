"""Devices as a user writes them, checked before anything starts."""

import torch

from .device_kinds import other_accelerator
from .errors import InputError

AUTO = "auto"
"""The choice of devices, or of an executor, that is left to the program."""
MAX_DEVICES = 64
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
