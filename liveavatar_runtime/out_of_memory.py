"""A device that is full while it works: told with the settings that free memory."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from .device_kinds import shares_ram
from .errors import MachineError, replaced
from .system_memory import is_shortage
from .texts import gib
from .usual_sizes import smaller_sizes

SHORTAGE_WORDS = ("out of memory", "can't allocate memory", "not enough gpu video memory", "alloc_failed")
"""Of CUDA, XPU and MPS; of processors; of DirectML; of CUDA's libraries."""


CPU = torch.device("cpu")


class DeviceFullError(MachineError, torch.cuda.OutOfMemoryError):
    """Also of the class by which ComfyUI knows that it should unload its models."""


def is_out_of_memory(error: BaseException) -> bool:
    """Of a GPU of any maker and its libraries, or of the system, whose allocators raise errors of many classes."""
    if isinstance(error, torch.cuda.OutOfMemoryError) or is_of_the_system(error):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in SHORTAGE_WORDS)


def is_of_the_system(error: BaseException) -> bool:
    """Whether it is the RAM that is full, whatever device the work was for."""
    return isinstance(error, (MemoryError, OSError, RuntimeError)) and is_shortage(error)


def full_device_told(
    work: str, device: torch.device, ways: Callable[[], list[str]], ways_in_ram: Callable[[], list[str]] | None = None
) -> AbstractContextManager[None]:
    """Inside, a full device is raised as DeviceFullError with `ways` to need less; `work` says what was done.

    When it was the RAM that is full, that is said, with `ways_in_ram` where they are others.
    """

    def told(error: Exception) -> Exception:
        if isinstance(error, MachineError) or not is_out_of_memory(error):
            return error
        full, helping = device, ways
        if not shares_ram(device) and is_of_the_system(error):
            full, helping = CPU, ways_in_ram or ways
        return DeviceFullError(
            f"{full} ran out of memory while {work}: {_reason(error)}. What helps: {'; '.join(helping())}. Clips that "
            "are finished are kept."
        )

    return replaced(Exception, told)


def pictures_told(
    work: str, size: tuple[int, int], device: torch.device, value_bytes: float = 0, beside_caches: bool = False
) -> AbstractContextManager[None]:
    """`full_device_told` for the VAE's work, which depends on the size of the pictures (width, height) only; `work` has
    `{size}` where it is said.

    value_bytes: what it needs for each pixel. beside_caches: whether those of the sampler may be on the device too.
    """

    width, height = size

    def told(w: int, h: int) -> str:
        if not value_bytes:
            return f"{w}x{h} in Clip Scheduler"
        needed, now = (int(value_bytes * pixels) for pixels in (w * h, width * height))
        return f"{w}x{h} in Clip Scheduler ({gib(needed)} instead of {gib(now)})"

    smaller = [told(w, h) for w, h in reversed(smaller_sizes(width, height))]
    elsewhere = [] if shares_ram(device) else ["starting ComfyUI with --cpu-vae, which needs nothing of the device"]
    if beside_caches and not shares_ram(device):
        elsewhere.insert(0, "kv_cache ram in DiT Sampler, where the caches are the largest part")
    return full_device_told(
        work.format(size=f"{width}x{height}"), device, lambda: [*elsewhere, *smaller, _others(device)]
    )


def ram_told(work: str, *ways: str) -> AbstractContextManager[None]:
    """`full_device_told` for work in RAM; empty ways are left out."""
    return full_device_told(work, CPU, lambda: [*filter(None, ways), _others(CPU)])


def encoder_full(what: str, encoder: str, error: BaseException, left: str) -> DeviceFullError:
    """System memory that a video encoder does not get; `left` says what there is of the file."""
    smaller = [] if encoder == "libx264" else ["codec h264 in Online VAE Decode, which needs the least"]
    ways = [*smaller, "return_frames off", "a smaller size in Clip Scheduler", _others(CPU)]
    return DeviceFullError(
        f"{what}: the encoder {encoder} ran out of memory ({_reason(error)}). {left} What helps: {'; '.join(ways)}. "
        "Clips that are finished are kept."
    )


def _reason(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _others(device: torch.device) -> str:
    return f"closing other programs that use {device}"
