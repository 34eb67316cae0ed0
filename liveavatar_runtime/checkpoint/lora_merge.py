"""LoRAs merged into weights that are not quantised."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from .lora import Change, FittedLora, LoraFile, fit_lora, listing, read_lora
from .lora_kinds import DIFFERENCE, REPLACEMENT

MERGEABLE = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class MergedLora:
    """New values of the touched weights, and how the LoRA and the model fitted together."""

    tensors: dict[str, Tensor]
    fitted: FittedLora

    @property
    def matched(self) -> tuple[str, ...]:
        """The model's modules with changes."""
        return tuple(dict.fromkeys(change.target.removesuffix(".weight") for change in self.fitted.changes))

    @property
    def unmatched(self) -> tuple[str, ...]:
        """What of the file was left out, as it is written."""
        return tuple(one.name for one in self.fitted.left_out)


def merge_lora(
    state_dict: Mapping[str, Tensor],
    lora: Mapping[str, Tensor] | LoraFile,
    strength: float = 1.0,
    *,
    alpha: float | None = None,
    metadata: Mapping[str, str] | None = None,
    path: Path | str = "given",
) -> MergedLora:
    """The weights that a LoRA changes, with it merged in; `state_dict` stays as it is.

    The sum is computed in float32 and rounded once to the weight's dtype. `alpha` replaces what the file says.
    Raises CheckpointError when nothing fits, for kinds that only ComfyUI's core applies, and for weights that are
    already quantised.
    """
    file = lora if isinstance(lora, LoraFile) else read_lora(lora, metadata, path)
    fitted = fit_lora(file, {name: tuple(tensor.shape) for name, tensor in state_dict.items()}, alpha)
    check_mergeable(fitted)
    changes = fitted.by_target()
    return MergedLora({name: merged(name, state_dict[name], changes[name], strength) for name in changes}, fitted)


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
        kinds = ", ".join(dict.fromkeys(change.kind_name for change in others))
        raise CheckpointError(
            f"the LoRA {fitted.path} holds {kinds} changes ({listing([one.written for one in others])}), which only "
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
