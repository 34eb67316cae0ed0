"""Transformers that ComfyUI's core holds: loaded by its loader, patched with its LoRA code, or connected as a MODEL.

Quantisation, LoRA, partial loading and offload are core's. The runtime runs on core's module tree, which has the
original's names.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import comfy.sd
import torch

from ..liveavatar_runtime.config import AvatarConfig
from ..liveavatar_runtime.errors import CheckpointError
from .types import AvatarModel

# What core cannot tell from shapes and takes from the "config" entry of a file's metadata.
DECLARED = (
    "num_heads",
    "audio_inject_layers",
    "audio_dim",
    "num_audio_token",
    "cond_dim",
    "text_dim",
    "text_len",
    "freq_dim",
    "eps",
)


def load_with_core(path: Path, loras: Sequence[tuple[Path, float]], dtype: torch.dtype | None) -> Any:
    """A ModelPatcher of the transformer in a file or folder; `dtype` None lets core choose for the device.

    Raises CheckpointError when the file is not a complete S2V model, or a LoRA does not fit it.
    """
    from ..liveavatar_runtime.checkpoint.detect import config_beside, detect_config
    from ..liveavatar_runtime.checkpoint.safetensors_io import open_checkpoint

    checkpoint = open_checkpoint(path)
    config = detect_config(checkpoint, config_beside(path)).to_dict()
    declared = json.dumps({"transformer": {name: config[name] for name in DECLARED}})
    options = {} if dtype is None else {"dtype": dtype}
    patcher = comfy.sd.load_diffusion_model_state_dict(
        dict(checkpoint.tensors), model_options=options, metadata={**checkpoint.metadata, "config": declared}
    )
    if patcher is None:
        raise CheckpointError(
            f"this ComfyUI does not know the model in {path}; it needs Wan2.2-S2V support, so update ComfyUI"
        )
    for lora, strength in loras:
        patcher = with_lora(patcher, lora, strength)
    return patcher


def with_lora(patcher: Any, path: Path, strength: float) -> Any:
    """A clone of the patcher with the LoRA's patches. Raises CheckpointError when the LoRA matches nothing."""
    from ..liveavatar_runtime.checkpoint.lora import comfy_lora, open_lora

    lora = open_lora(path)
    patched: Any = comfy.sd.load_lora_for_models(patcher, None, comfy_lora(lora), strength, 0.0)[0]
    before = sum(map(len, patcher.patches.values()))
    if sum(map(len, patched.patches.values())) == before:
        raise CheckpointError(
            f"the LoRA {path} fits no layer of this model; use liveavatar.safetensors or another LoRA of Wan2.2-S2V-14B"
        )
    return patched


def adopt(patcher: Any) -> AvatarModel:
    """A MODEL as a Live Avatar model. Raises CheckpointError when it is of another architecture."""
    tree = patcher.get_model_object("diffusion_model")
    if not hasattr(tree, "casual_audio_encoder") or not hasattr(tree, "frame_packer"):
        raise CheckpointError(
            f"the connected model is {type(tree).__name__}, which has no audio encoder; connect a Wan2.2-S2V-14B model"
        )
    return AvatarModel(patcher, config_of(tree), patcher.model.get_dtype_inference())


def config_of(tree: Any) -> AvatarConfig:
    """Sizes of core's WanModel_S2V."""
    encoder = tree.casual_audio_encoder
    same = ("dim", "ffn_dim", "num_heads", "num_layers", "in_dim", "out_dim", "text_dim", "text_len", "freq_dim", "eps")
    return AvatarConfig(
        **{name: getattr(tree, name) for name in same},
        audio_inject_layers=tuple(tree.audio_injector.injected_block_id),
        audio_dim=encoder.encoder.conv1_local.conv.in_channels,
        audio_layers=encoder.weights.shape[1],
        num_audio_token=encoder.encoder.num_heads,
        cond_dim=tree.cond_encoder.in_channels,
        patch_size=tuple(tree.patch_size),
    )
