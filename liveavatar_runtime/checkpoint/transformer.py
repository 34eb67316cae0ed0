"""A CausalWanS2V from weight files: the runtime's own loader, for bundles, workers and tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..dit.attention import AttentionKernel, sdpa
from ..dit.model import CausalWanS2V
from ..errors import CheckpointError
from .detect import config_beside, detect_config
from .lora import merge_lora, open_lora
from .safetensors_io import open_checkpoint

PLAIN_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def load_transformer(
    path: Path,
    loras: Sequence[tuple[Path, float]] = (),
    dtype: torch.dtype | None = None,
    operations: Any = nn,
    attention: AttentionKernel = sdpa,
) -> CausalWanS2V:
    """The transformer of a file or folder on the CPU, LoRAs of (path, strength) merged, ready to evaluate.

    `dtype` None keeps the stored one: the weights are then views of the mapped file, and only what a LoRA touches is
    new. Raises CheckpointError for files that are unreadable or of another architecture.
    """
    checkpoint = open_checkpoint(path)
    config = detect_config(checkpoint, config_beside(path))
    tensors = checkpoint.tensors
    _check_plain(path, tensors)
    # Before merging, so that a LoRA is not rounded to a coarser format than the one asked for.
    if dtype is not None:
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    for lora_path, strength in loras:
        tensors = {**tensors, **merge_lora(tensors, open_lora(lora_path), strength).tensors}
    model = CausalWanS2V(config, operations=operations, device="meta", attention=attention)
    model.load_state_dict(tensors, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def _check_plain(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Quantised weights need layers of their own; until they are there, such files are refused with a reason."""
    quantised = [name for name, tensor in tensors.items() if tensor.dtype not in PLAIN_DTYPES]
    extra = [name for name in tensors if name.endswith(("scale_weight", "scale_input", "scaled_fp8", "comfy_quant"))]
    if quantised or extra:
        raise CheckpointError(
            f"{path} is quantised ({len(quantised)} tensors such as {(quantised or extra)[0]}); this loader takes "
            "bf16, fp16 and fp32 weights. Use wan2.2_s2v_14B_bf16.safetensors or the official folder."
        )
