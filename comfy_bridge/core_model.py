"""Transformers that ComfyUI's core holds: loaded by its loader, patched with its LoRA code, or connected as a MODEL.

Quantisation, LoRA, partial loading and offload are core's. The runtime runs on core's module tree, which has the
original's names.
"""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, cast

import comfy.lora
import comfy.model_patcher
import comfy.sd
import comfy.utils
import torch
from torch import Tensor

from liveavatar_runtime.checkpoint.safetensors_io import QUANTISATION_HEADER, open_checkpoint
from liveavatar_runtime.config import AvatarConfig
from liveavatar_runtime.errors import CheckpointError
from liveavatar_runtime.progress import Progress

from .avatar import AvatarModel
from .comfy_types import Patcher, S2VTree
from .core_weights import CoreWeights, Tell, empty_weights, fill_weights
from .folders import maps_files

if TYPE_CHECKING:
    from liveavatar_runtime.checkpoint.lora import FittedLora

AS_IN_FILE = "as in file"
PLAIN = (torch.bfloat16, torch.float16, torch.float32)

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


def load_with_core(
    path: Path,
    loras: Sequence[tuple[Path, float]],
    precision: torch.dtype | str | None,
    progress: Progress | None = None,
    tell: Tell | None = None,
) -> Patcher:
    """A ModelPatcher of the transformer in a file or folder, with LoRAs of (path, strength).

    `precision` None lets core choose for the device, AS_IN_FILE keeps the stored format. Layers of quantised files
    keep theirs, as far as core computes with it. GGUF files are unpacked, their own precision is bf16.
    `tell` is called with sentences for the user.
    Raises CheckpointError when the file is not a complete S2V model, or a LoRA does not fit it.
    """
    return with_loras(_load(path, precision, progress=progress, tell=tell), loras)[0]


def _load(
    path: Path,
    precision: torch.dtype | str | None,
    disable_dynamic: bool = False,
    progress: Progress | None = None,
    tell: Tell | None = None,
) -> Patcher:
    from liveavatar_runtime.checkpoint.detect import config_beside, detect_config, expected_shapes

    checkpoint = open_checkpoint(path, _read_with_core, mapped=maps_files())
    config = detect_config(checkpoint, config_beside(path))
    sizes = config.to_dict()
    declared = json.dumps({"transformer": {name: sizes[name] for name in DECLARED}})
    weights = CoreWeights.of(checkpoint, expected_shapes(config))
    if tell and weights.unpacked:
        tell(weights.describe_unpacked())
    # Core maps and streams the files itself where it can. Elsewhere it would keep all of the mapped file in memory
    # beside its copy, and show no progress; only quantised layers need its own way of loading.
    fill = not weights.kept and (weights.plain.any_unpacked or not checkpoint.mapped or not _streams(disable_dynamic))
    tensors = weights.placeholders() if fill else weights.in_core_layout()
    if precision == AS_IN_FILE:
        precision = comfy.utils.weight_dtype(tensors)
    if weights.kept and precision not in PLAIN:
        precision = None
    with empty_weights() if fill else nullcontext():
        loaded = comfy.sd.load_diffusion_model_state_dict(
            tensors,
            model_options={} if precision is None else {"dtype": precision},
            # The formats of quantised layers stand in the tensors now.
            metadata={**checkpoint.metadata, QUANTISATION_HEADER: json.dumps({"layers": {}}), "config": declared},
            disable_dynamic=disable_dynamic,
        )
    if loaded is None:
        raise CheckpointError(
            f"this ComfyUI does not know the model in {path}; it needs Wan2.2-S2V support, so update ComfyUI"
        )
    patcher = cast(Patcher, loaded)
    if fill and not fill_weights(patcher.model.diffusion_model, weights.plain, precision is None, progress, tell):
        # What the file holds can stay in it, but not what core would convert it to.
        return _load(path, AS_IN_FILE, disable_dynamic, progress, tell)
    # How core makes a second copy of the weights, for another device or for nodes that need plain ones.
    patcher.cached_patcher_init = (_load, (path, precision))
    return patcher


def _read_with_core(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Core notes on the tensors where in the file they are, and streams them from there when it can."""
    tensors, metadata = comfy.utils.load_torch_file(str(path), return_metadata=True)
    return tensors, metadata or {}


def _streams(disable_dynamic: bool) -> bool:
    """Whether core will make a patcher that takes the mapped tensors themselves."""
    return not disable_dynamic and comfy.model_patcher.CoreModelPatcher is not comfy.model_patcher.ModelPatcher


def with_loras(patcher: Patcher, loras: Sequence[tuple[Path, float]]) -> tuple[Patcher, list["FittedLora"]]:
    """A clone of the patcher with the patches of LoRAs, and what of each is applied.

    Raises CheckpointError when a file cannot be read, or nothing in it fits.
    """
    applied = []
    for path, strength in loras:
        patcher, fitted = _with_lora(patcher, path, strength)
        applied.append(fitted)
    return patcher, applied


def _with_lora(patcher: Patcher, path: Path, strength: float) -> tuple[Patcher, "FittedLora"]:
    from liveavatar_runtime.checkpoint.detect import expected_shapes
    from liveavatar_runtime.checkpoint.lora import CORE_PREFIX, fit_lora, open_lora

    fitted = fit_lora(open_lora(path, mapped=maps_files()), expected_shapes(adopt(patcher).config))
    patched = patcher.clone()
    keys = comfy.lora.model_lora_keys_unet(patched.model, {})
    taken: set[str] = set()
    for tensors in fitted.for_core():
        patches = comfy.lora.load_lora(tensors, keys)
        taken.update(patched.add_patches(patches, strength))
    unknown = {target for target in fitted.targets if CORE_PREFIX + target not in taken}
    if unknown:
        fitted = fitted.without(unknown, "this ComfyUI does not know this kind of LoRA, update it")
    return patched, fitted


def adopt(patcher: Patcher) -> AvatarModel:
    """A MODEL as a Live Avatar model. Raises CheckpointError when it is of another architecture."""
    tree = tree_of(patcher)
    if not hasattr(tree, "casual_audio_encoder") or not hasattr(tree, "frame_packer"):
        raise CheckpointError(
            f"the connected model is {type(tree).__name__}, which has no audio encoder; connect a Wan2.2-S2V-14B model"
        )
    return AvatarModel(patcher, config_of(cast(S2VTree, tree)), compute_dtype(patcher))


def tree_of(patcher: Patcher) -> torch.nn.Module:
    """The module tree of a MODEL; of one that a node compiled as a whole, what was compiled."""
    tree = patcher.get_model_object("diffusion_model")
    return getattr(tree, "_orig_mod", tree)


def compute_dtype(patcher: Patcher) -> torch.dtype:
    """What a MODEL computes in. Clones share one model, on which the one that was used last has left its own dtype."""
    shared, name = patcher.model, "manual_cast_dtype"
    own = patcher.object_patches_backup.get(name, shared.manual_cast_dtype)
    return cast(torch.dtype, patcher.object_patches.get(name) or own or shared.get_dtype())


def config_of(tree: S2VTree) -> AvatarConfig:
    """Sizes of core's WanModel_S2V."""
    encoder, (frames, rows, columns) = tree.casual_audio_encoder, tree.patch_size
    same = ("dim", "ffn_dim", "num_heads", "num_layers", "in_dim", "out_dim", "text_dim", "text_len", "freq_dim", "eps")
    return AvatarConfig(
        **{name: getattr(tree, name) for name in same},
        audio_inject_layers=tuple(tree.audio_injector.injected_block_id),
        audio_dim=encoder.encoder.conv1_local.conv.in_channels,
        audio_layers=encoder.weights.shape[1],
        num_audio_token=encoder.encoder.num_heads,
        cond_dim=tree.cond_encoder.in_channels,
        patch_size=(frames, rows, columns),
    )
