"""What a layer computes number by number between its products: modulation, gates and residuals, in float32.

Each has two forms. The plain one rounds after every operation; processors take it, which keep their bits, and so do
training and compiled graphs, which the compiler joins itself. The other one is one kernel that reads and writes each
number once, for cards (`device_kinds.FUSED_FORMS`): it leaves out a rounding.
"""

import torch
from torch import Tensor

from ..device_kinds import FUSED_FORMS


def in_one_kernel(x: Tensor) -> bool:
    return x.device.type in FUSED_FORMS and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


SCALES = range(1, 6, 3)
"""Of the six modulations (shift, scale, gate) of attention and of the FFN, those that numbers are multiplied by."""


def modulation_parts(own: Tensor, time: Tensor) -> tuple[Tensor, ...]:
    """A layer's modulation [1, 6, dim] and that of the time step, float32 [B, 6, dim] -> the six parts, float32
    [B, 1, dim] each, of which the scales are 1 + scale."""
    own = own.to(time.device)
    if own.itemsize == 1:
        own = own.float()
    parts = own + time
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return tuple(1 + part if n in SCALES else part for n, part in enumerate(parts.split(1, dim=1)))
    parts[:, SCALES.start :: SCALES.step].add_(1)
    return parts.split(1, dim=1)


def modulate(x: Tensor, shift: Tensor, one_and_scale: Tensor, dtype: torch.dtype) -> Tensor:
    """x [B, L, dim] * one_and_scale + shift, both float32 [B, 1, dim], in `dtype`."""
    if in_one_kernel(x):
        return torch.addcmul(shift, x, one_and_scale, out=x.new_empty(x.shape, dtype=dtype))
    return (x.float() * one_and_scale + shift).to(dtype)


def modulate_in_dtype(x: Tensor, shift: Tensor, one_and_scale: Tensor) -> Tensor:
    """As `modulate`, of operands of one dtype and rounded to it, as the voice's norm is modulated."""
    return torch.addcmul(shift, x, one_and_scale) if in_one_kernel(x) else x * one_and_scale + shift


def add_gated(hidden: Tensor, x: Tensor, gate: Tensor, dtype: torch.dtype) -> Tensor:
    """hidden + x * gate, hidden and x [B, L, dim], gate float32 [B, 1, dim], in `dtype`."""
    if in_one_kernel(x):
        return torch.addcmul(hidden, x, gate, out=x.new_empty(x.shape, dtype=dtype))
    return (hidden + x * gate).to(dtype)


def add_to(hidden: Tensor, x: Tensor) -> Tensor:
    """hidden + x in hidden's dtype and, where no gradient needs it, in its memory."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return hidden + x
    return hidden.add_(x)
