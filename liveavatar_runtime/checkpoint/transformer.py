"""A CausalWanS2V from weight files: the runtime's own loader, for bundles, workers and tests."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from accelerate import init_empty_weights
from torch import Tensor

from ..dit.model import CausalWanS2V
from ..system_memory import available_memory, stay_on_disk
from .detect import config_beside, detect_config, expected_shapes
from .lora import FittedLora, fit_lora, open_lora
from .lora_merge import check_mergeable, merged
from .offload import keep_on_disk
from .safetensors_io import open_checkpoint
from .weights import PlainWeights

log = logging.getLogger(__name__)


def load_transformer(
    path: Path,
    loras: Sequence[tuple[Path, float]] = (),
    dtype: torch.dtype | None = None,
    *,
    mapped: bool = True,
) -> CausalWanS2V:
    """The transformer of a file or folder on the CPU, LoRAs of (path, strength) merged, ready to evaluate.

    `dtype` None keeps the stored one: the weights are then views of the mapped file, and only what a LoRA touches is
    new; without `mapped` all are read. Weights in fp8 or GGUF are unpacked, to bf16 when `dtype` is None. Weights that
    memory has no room for stay on the disk (see `offload`). Raises CheckpointError for files that are unreadable, of
    another architecture, or in formats that only ComfyUI's own loader reads.
    """
    checkpoint = open_checkpoint(path, mapped=mapped)
    config = detect_config(checkpoint, config_beside(path))
    shapes = expected_shapes(config)
    fitted = [(fit_lora(open_lora(lora, mapped=mapped), shapes), strength) for lora, strength in loras]
    # Merged in the dtype asked for, so that a LoRA is not rounded to a coarser one.
    weights = MergedWeights(PlainWeights(checkpoint, dtype, shapes), fitted)
    with init_empty_weights(include_buffers=True):
        model = CausalWanS2V(config)
    if weights.size > available_memory():
        log.warning("%s", stay_on_disk(path, weights.size))
        keep_on_disk(model, weights, weights.dtype_of)
    else:
        model.load_state_dict(dict(weights), strict=True, assign=True)
    return model.eval().requires_grad_(False)


class MergedWeights(Mapping[str, Tensor]):
    """Weights with LoRAs of a strength merged in, made when they are asked for.

    Raises CheckpointError for LoRAs that only ComfyUI's core applies.
    """

    def __init__(self, weights: PlainWeights, loras: Sequence[tuple[FittedLora, float]]) -> None:
        for fitted, _ in loras:
            check_mergeable(fitted)
        self._weights = weights
        self._changes = [(fitted.by_target(), strength) for fitted, strength in loras]
        self.dtype_of, self.size = weights.dtype_of, weights.size

    def __getitem__(self, name: str) -> Tensor:
        weight = self._weights[name]
        for changes, strength in self._changes:
            if name in changes:
                weight = merged(name, weight, changes[name], strength)
        return weight

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)
