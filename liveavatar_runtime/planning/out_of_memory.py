"""A device that is full while it works: told with the settings that free the most."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ..config import AvatarConfig
from ..device_kinds import shares_ram
from ..errors import MachineError
from .memory import Placement, cheaper_plans, gib, ram_bytes, smaller_sizes, working_bytes

if TYPE_CHECKING:
    from ..sampling.plan import ClipPlan

SHORTAGE_WORDS = ("out of memory", "can't allocate memory", "not enough gpu video memory")
"""Of CUDA, XPU and MPS; of processors; of DirectML."""
NEAR = 0.01
"""Ways that free less than this share of what is needed are left out."""


class DeviceFullError(MachineError, torch.cuda.OutOfMemoryError):
    """Also of the class by which ComfyUI knows that it should unload its models."""


def is_out_of_memory(error: BaseException) -> bool:
    """Of a GPU of any maker, or of the processor, whose allocator raises a plain RuntimeError."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in SHORTAGE_WORDS)


@contextmanager
def full_device_told(work: str, device: torch.device, ways: Callable[[], list[str]]) -> Iterator[None]:
    """Inside, a full device is raised as DeviceFullError with `ways` to need less; `work` says what was done."""
    try:
        yield
    except Exception as error:
        if isinstance(error, MachineError) or not is_out_of_memory(error):
            raise
        raise DeviceFullError(
            f"{device} ran out of memory while {work}: {_reason(error)}. What helps: {'; '.join(ways())}. Clips that "
            "are finished are kept."
        ) from error


def sampling_told(
    config: AvatarConfig, plan: "ClipPlan", dtype: torch.dtype, placement: Placement, device: torch.device
) -> AbstractContextManager[None]:
    """`full_device_told` for sampling a plan with the caches at a placement."""
    work = f"sampling {plan.width}x{plan.height} in {plan.steps} steps"
    return full_device_told(work, device, lambda: sampling_ways(config, plan, dtype, placement, device))


def sampling_ways(
    config: AvatarConfig, plan: "ClipPlan", dtype: torch.dtype, placement: Placement, device: torch.device
) -> list[str]:
    """Settings that free memory of the device, those that free the most first."""

    def needed(changed: "ClipPlan", placed: Placement) -> int:
        # Caches in RAM are then on the device as well.
        beside = ram_bytes(config, changed, dtype, placed) if shares_ram(device) else 0
        return working_bytes(config, changed, dtype, placed) + beside

    now = needed(plan, placement)
    ways = [(needed(changed, placement), f"{name} in Clip Scheduler") for name, changed in cheaper_plans(plan)]
    in_ram = replace(placement, kv_cache="ram", device_layers=0)
    in_fp8 = replace(placement, kv_dtype="fp8", device_layers=0)
    placements = [("kv_dtype fp8", in_fp8), ("schedule sequential", replace(placement, batched=False))]
    if not shares_ram(device):
        placements.append(("kv_cache ram", in_ram))
    ways += [(needed(plan, placed), f"{name} in DiT Sampler") for name, placed in placements]
    freeing = sorted((then, name) for then, name in ways if now - then > NEAR * now)
    told = [f"{name} ({gib(then)} beside the weights instead of {gib(now)})" for then, name in freeing]
    return [*told, _others(device)]


def pictures_told(work: str, width: int, height: int, device: torch.device) -> AbstractContextManager[None]:
    """`full_device_told` for the VAE's work, which depends on the size of the pictures only."""
    smaller = [f"{w}x{h} in Clip Scheduler" for w, h in smaller_sizes(width, height)]
    ways = [*smaller, "kv_cache ram in DiT Sampler", _others(device)]
    return full_device_told(f"{work} {width}x{height}", device, lambda: ways)


def encoder_full(what: str, encoder: str, error: BaseException, left: str) -> DeviceFullError:
    """System memory that a video encoder does not get; `left` says what there is of the file."""
    smaller = [] if encoder == "libx264" else ["codec h264 in Online VAE Decode, which needs the least"]
    ways = [*smaller, "return_frames off", "a smaller size in Clip Scheduler", _others(torch.device("cpu"))]
    return DeviceFullError(
        f"{what}: the encoder {encoder} ran out of memory ({_reason(error)}). {left} What helps: {'; '.join(ways)}. "
        "Clips that are finished are kept."
    )


def _reason(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _others(device: torch.device) -> str:
    return f"closing other programs that use {device}"
