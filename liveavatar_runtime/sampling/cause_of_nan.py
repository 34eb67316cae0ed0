"""Where values come from that are not numbers: inputs, looked at before sampling, or the model, once it gave some."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checkpoint.content import broken_numbers

PART = 2**22
"""Values that are looked at together."""
GREW = 100.0
"""Times a weight's largest value may grow by LoRAs: those that work change weights by a fraction of what they are."""


@dataclass(frozen=True)
class UsedWeight:
    """A weight by name: as it is held, and as LoRAs make it (None where none changes it), both of any device and
    float type."""

    name: str
    base: Tensor
    with_loras: Tensor | None = None


def broken_in(tensor: Tensor) -> int:
    """How many values are NaN or infinite, of a tensor of any size, type and device; little of it is copied at once."""
    flat = tensor.detach().reshape(-1)
    return sum(broken_numbers(part.cpu()) for part in flat.split(PART))


def cause_in_model(
    weights: Iterable[UsedWeight], computes: torch.dtype, finite_file: bool, approximations: Iterable[str] = ()
) -> str:
    """Why a model gives values that are not numbers, and what to do: the first reason that is found.

    `computes`: what hidden states are; LoRAs are rounded to it. `finite_file`: whether what the weights were made from
    was found to hold numbers only, so that what is none came with the format. `approximations`: settings in use that
    make values coarser ("kv_dtype fp8").
    """
    looked_at, growth, grown = 0, 1.0, ""
    for weight in weights:
        looked_at += 1
        found = _cause_in_weight(weight, computes, finite_file)
        if found:
            return found
        if weight.with_loras is not None:
            factor = _largest(weight.with_loras) / max(_largest(weight.base), torch.finfo(torch.float32).tiny)
            if factor > growth:
                growth, grown = factor, weight.name
    if growth > GREW:
        return (
            f"A LoRA is too strong: it makes {grown} {growth:,.0f} times as large as it was. Lower its strength, or "
            "leave it out."
        )
    return f"All {looked_at} weights are numbers, also with LoRAs. {_of_format(computes, approximations)}"


def _cause_in_weight(weight: UsedWeight, computes: torch.dtype, finite_file: bool) -> str:
    if not weight.base.is_floating_point():
        return ""
    broken = broken_in(weight.base)
    count = f"{broken:,} of its {weight.base.numel():,} values"
    # Only these overflow with what other formats hold.
    if broken and finite_file and torch.finfo(weight.base.dtype).max < torch.finfo(torch.bfloat16).max:
        return (
            f"The number format is too small: {count} of the weight {weight.name} became infinite in "
            f"{_name(weight.base.dtype)}. Set precision to bf16 or fp32."
        )
    if broken:
        return f"The model's weight {weight.name} holds such values, {count}: get its file again, or use another one."
    if weight.with_loras is None:
        return ""
    if broken_in(weight.with_loras):
        return (
            f"A LoRA makes the weight {weight.name} so, which is finite without it: its file holds such values, or it "
            "is too strong. Get it again, lower its strength, or leave it out."
        )
    if _largest(weight.with_loras) > torch.finfo(computes).max:
        return (
            f"A LoRA makes values of the weight {weight.name} larger than {_name(computes)} holds "
            f"({torch.finfo(computes).max:g}). Lower its strength, or set precision to bf16 or fp32."
        )
    return ""


def cause_in_workers(computes: torch.dtype, approximations: Iterable[str] = ()) -> str:
    """The same for workers, of which no more is known here than that their files are finite: their key was made."""
    return (
        "The workers' weight file and LoRAs hold numbers only. A LoRA may be too strong: lower the strengths. "
        f"{_of_format(computes, approximations)}"
    )


def _of_format(computes: torch.dtype, approximations: Iterable[str]) -> str:
    """What is left when weights, LoRAs and inputs are in order."""
    if computes == torch.float16:
        return "Hidden states grow beyond what fp16 holds (65,504): set precision to bf16 or fp32."
    coarse = " and ".join(approximations)
    if coarse:
        return f"In {_name(computes)} only {coarse} is left as the cause: choose another setting."
    return (
        f"Hidden states overflow even in {_name(computes)}: the weights do not belong to this kind of model, or the "
        "device computes wrongly. Try precision fp32 and attention sdpa, or other weights."
    )


def _largest(tensor: Tensor) -> float:
    return max((float(part.float().abs().max()) for part in tensor.detach().reshape(-1).split(PART)), default=0.0)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
