"""A CausalWanS2V from weight files: the runtime's own loader, for bundles, workers and tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..dit.attention import AttentionKernel, sdpa
from ..dit.model import CausalWanS2V
from .detect import config_beside, detect_config
from .lora import merge_lora, open_lora
from .quantised import plain_tensors
from .safetensors_io import open_checkpoint


def load_transformer(
    path: Path,
    loras: Sequence[tuple[Path, float]] = (),
    dtype: torch.dtype | None = None,
    operations: Any = nn,
    attention: AttentionKernel = sdpa,
) -> CausalWanS2V:
    """The transformer of a file or folder on the CPU, LoRAs of (path, strength) merged, ready to evaluate.

    `dtype` None keeps the stored one: the weights are then views of the mapped file, and only what a LoRA touches is
    new. Weights in fp8 or GGUF are unpacked, to bf16 when `dtype` is None. Raises CheckpointError for files that are
    unreadable, of another architecture, or in formats that only ComfyUI's own loader reads.
    """
    checkpoint = open_checkpoint(path)
    config = detect_config(checkpoint, config_beside(path))
    # Before merging, so that a LoRA is not rounded to a coarser format than the one asked for.
    tensors = plain_tensors(checkpoint, dtype)
    for lora_path, strength in loras:
        tensors.update(merge_lora(tensors, open_lora(lora_path), strength).tensors)
    model = CausalWanS2V(config, operations=operations, device="meta", attention=attention)
    model.load_state_dict(tensors, strict=True, assign=True)
    return model.eval().requires_grad_(False)
