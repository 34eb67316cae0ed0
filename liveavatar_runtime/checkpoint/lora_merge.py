"""LoRAs merged into weights that are not quantised."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..texts import first_names
from .lora import Change, FittedLora
from .lora_kinds import DIFFERENCE, REPLACEMENT

MERGEABLE = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def merged(name: str, weight: Tensor, changes: Sequence[Change], strength: float) -> Tensor:
    """The weight `name` with all its changes. Raises CheckpointError when it is quantised."""
    if weight.dtype not in MERGEABLE:
        raise CheckpointError(
            f"{name} is quantised ({str(weight.dtype).removeprefix('torch.')}); a LoRA can only be merged into bf16, "
            "fp16 or fp32 weights. Merge first and quantise then, or let ComfyUI's LoRA loader patch it."
        )
    result = weight.float()
    for change in changes:
        result = _changed(result, change, strength)
    return result.to(weight.dtype)


def check_mergeable(fitted: FittedLora) -> None:
    """Raises CheckpointError, with the kinds and modules, for a LoRA that only ComfyUI's core can apply."""
    others = [change for change in fitted.changes if not change.merges]
    if others:
        modules = first_names([one.written for one in others])
        kinds = ", ".join(dict.fromkeys(change.kind_name for change in others))
        raise CheckpointError(
            f"the LoRA {fitted.path} holds {kinds} changes ({modules}), which only "
            "ComfyUI's core applies. Workers merge LoRA, LoHa, LoKr and differences (diff, diff_b, diff_m). "
            "Choose executor local or a pipeline in this ComfyUI, or another LoRA."
        )


def _changed(weight: Tensor, change: Change, strength: float) -> Tensor:
    """`weight` (float32) with a change of a kind that merges."""
    if change.kind is REPLACEMENT:
        return change.parts["set_weight"].float()
    if change.kind is DIFFERENCE:
        return weight + strength * change.parts["diff"].float()
    assert change.kind.change is not None
    return weight + (strength * change.scale.value) * change.kind.change(change.parts).reshape(weight.shape)
