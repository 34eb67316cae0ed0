"""All weights that a LoRA changes, merged at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from liveavatar_runtime.checkpoint.lora import FittedLora, LoraFile, fit_lora, read_lora
from liveavatar_runtime.checkpoint.lora_merge import check_mergeable, merged


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
