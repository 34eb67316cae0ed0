"""What the types of messages' fields cannot say: shapes of tensors, and that numbers are finite.

All raise ValueError, which names the field, what it is and what it must be.
"""

import math
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from liveavatar_runtime.dtypes import dtype_name
from liveavatar_runtime.duration import LATENT_FRAMES_PER_BLOCK
from liveavatar_runtime.latent_space import CHANNELS


def check_tensor(name: str, tensor: Tensor, *sides: int | None) -> None:
    """`tensor` has these sides (None: any), and finite numbers of a floating type."""
    fits = tensor.ndim == len(sides) and all(
        side in (None, given) for side, given in zip(sides, tensor.shape, strict=True)
    )
    if not fits or not tensor.numel() or not tensor.is_floating_point():
        wanted = ", ".join("any" if side is None else str(side) for side in sides)
        raise ValueError(f"{name} is {_given(tensor)}; it must be [{wanted}] of a floating type")
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} has numbers that are not finite")


def check_block_latents(name: str, latents: Tensor) -> None:
    """float32 [16, 3, h, w]; what a model makes of the numbers is not judged."""
    sides = [CHANNELS, LATENT_FRAMES_PER_BLOCK]
    if latents.ndim != 4 or list(latents.shape[:2]) != sides or latents.dtype != torch.float32:
        raise ValueError(f"{name} is {_given(latents)}; it must be float32 [{sides[0]}, {sides[1]}, height, width]")


def _given(tensor: Tensor) -> str:
    return f"{dtype_name(tensor.dtype)} {list(tensor.shape)}"


def check_finite(name: str, value: Any) -> None:
    """A number, each field of a dataclass, or each item of a tuple."""
    if is_dataclass(value):
        for field in fields(value):
            check_finite(f"{name}.{field.name}", getattr(value, field.name))
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            check_finite(f"{name}[{number}]", item)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}; it must be finite")
