"""What kinds of devices differ in, beside their speed, in one place.

The pack is written for CUDA (PyTorch's name for ROCm too) and processors. For MPS, XPU, DirectML and others this says
what PyTorch and ComfyUI document of them; a wrong guess here must cost speed, never a picture.
"""

from typing import Any

import psutil
import torch

CPU, CUDA, MPS, XPU, DIRECTML = "cpu", "cuda", "mps", "xpu", "privateuseone"
FUSED_FORMS = (CUDA, "meta")
"""Kinds where operations are taken that join what others do in several, with one rounding less. A processor keeps its
bits, the rest what is known to run there. On "meta" nothing is computed; what is counted there is a card's."""
NO_FP8 = (MPS, DIRECTML)
"""Kinds that cannot hold 8-bit floating-point numbers: PyTorch refuses to convert to them there."""


def copies_ahead(*devices: torch.device) -> bool:
    """Whether a copy between these devices may return before it is done (`non_blocking`).

    Only CUDA keeps such copies in order with what comes after them. Elsewhere a processor that reads what was copied to
    it may read what was there before.
    """
    return any(device.type == CUDA for device in devices)


def shares_ram(device: torch.device) -> bool:
    """Whether a device's memory is a part of the system's: of processors, Apple's GPUs, GPUs built into a processor."""
    if device.type not in (CUDA, XPU):
        return device.type in (CPU, MPS)
    of_kind: Any = torch.cuda if device.type == CUDA else torch.xpu
    if not of_kind.is_available():
        return False
    about = of_kind.get_device_properties(device)
    integrated = getattr(about, "is_integrated", False) or getattr(about, "is_integrated_gpu", False)
    # Where more is set aside for the GPU than is left, the system does not count that.
    return bool(integrated) and about.total_memory <= psutil.virtual_memory().total


def takes_threads(device: torch.device) -> bool:
    """Whether several threads may use a device at once. With MPS that aborts the whole process (PyTorch's issue
    197805)."""
    return device.type != MPS


def has_fp8(device: torch.device) -> bool:
    """Whether a device can hold and convert 8-bit floating-point numbers."""
    return device.type not in NO_FP8


def other_accelerator() -> str | None:
    """The kind of this machine's GPU, if it has one that PyTorch does not call CUDA."""
    if torch.cuda.is_available():
        return None
    if torch.backends.mps.is_available():
        return MPS
    return XPU if torch.xpu.is_available() else None
