"""Why a model of this run gave values that are not numbers: its weights, what LoRAs make of them, or the format."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import comfy.lora
import torch
from torch import Tensor

from liveavatar_runtime.sampling.cause_of_nan import UsedWeight, cause_in_model, cause_in_workers
from liveavatar_runtime.sampling.video_key import EXACT

from .avatar import AvatarModel
from .model_fingerprint import original_weights
from .progress import stop_if_interrupted

if TYPE_CHECKING:
    from liveavatar_runtime.sampling.video_key import Numerics

    from .comfy_types import Patcher

TREE = "diffusion_model."


def cause_of_nan(model: AvatarModel, numerics: "Numerics") -> str:
    """Looks at all weights, with their patches, one at a time. The inputs were looked at before sampling."""
    coarse = [f"kv_dtype {numerics.kv_dtype}"] if numerics.kv_dtype != "model" else []
    coarse += [f"attention {numerics.attention}"] if numerics.attention != EXACT else []
    if model.loaded is None:
        return cause_in_workers(model.dtype, coarse)
    return cause_in_model(used_weights(model.patcher), model.dtype, bool(model.key), coarse)


def used_weights(patcher: "Patcher") -> Iterator[UsedWeight]:
    """Of the transformer, on the processor: the device may be full, and this happens once. Weights that other packs
    keep packed are only looked at as far as they are floats."""
    for name, tensor in original_weights(patcher):
        if not name.startswith(TREE):
            continue
        stop_if_interrupted()
        weight = plain(tensor)
        patches = patcher.patches.get(name) if weight.is_floating_point() else None
        # In the format that core computes patches in.
        patched = comfy.lora.calculate_weight(patches, weight.float().cpu().clone(), name) if patches else None
        yield UsedWeight(name.removeprefix(TREE), weight, patched)


def plain(weight: Tensor) -> Tensor:
    """A quantised weight of core in what it is unpacked to; any other as it is."""
    value = weight.detach()
    unpack = getattr(value, "dequantize", None) if hasattr(value, "__tensor_flatten__") else None
    result: Tensor = value if unpack is None else unpack()
    return result.as_subclass(torch.Tensor)
