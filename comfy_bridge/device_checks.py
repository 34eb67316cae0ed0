"""What a kind of device cannot do, told before anything is loaded or sampled."""

from collections.abc import Sequence

import torch

from liveavatar_runtime.device_kinds import has_fp8
from liveavatar_runtime.errors import InputError, MachineError
from liveavatar_runtime.planning.memory import KVTypeChoice

from .memory import tells_memory

FP8_PRECISION = "fp8_e4m3fn"


def check_fp8(kv_dtype: KVTypeChoice, devices: Sequence[torch.device]) -> None:
    """Raises InputError when caches in fp8 are asked for on a device that has no such numbers."""
    without = [str(device) for device in devices if not has_fp8(device)]
    if kv_dtype == "fp8" and without:
        raise InputError(
            f"kv_dtype is fp8, and {', '.join(without)} cannot hold 8-bit floating-point numbers; set it to auto or "
            "model. A smaller size, fewer steps or window_blocks 2 (Clip Scheduler) make the caches smaller too."
        )


def unknown_memory(devices: Sequence[torch.device]) -> str | None:
    """For the user of a device whose memory nobody knows."""
    unknown = [str(device) for device in devices if not tells_memory(device)]
    if not unknown:
        return None
    return (
        f"ComfyUI does not know how much memory {', '.join(unknown)} has (DirectML), so whether this fits was not "
        "checked. If memory runs out, set kv_cache to ram here, or a smaller size in Clip Scheduler."
    )


def check_precision(precision: str, device: torch.device) -> None:
    """Raises InputError for weights in fp8 on a device that has no such numbers."""
    if precision == FP8_PRECISION and not has_fp8(device):
        raise InputError(
            f"precision is {precision}, and {device} cannot hold 8-bit floating-point numbers; set it to auto, or to "
            "fp16 where memory is short"
        )


def check_compile(devices: Sequence[torch.device]) -> None:
    """Raises MachineError when layers cannot be compiled for the devices here, with what to install."""
    from liveavatar_runtime.dit.compiling import missing_for

    missing = list(dict.fromkeys(filter(None, map(missing_for, devices))))
    if missing:
        raise MachineError(
            f"compile is on, and torch.compile cannot work here. {' '.join(missing)} Or turn compile off."
        )
