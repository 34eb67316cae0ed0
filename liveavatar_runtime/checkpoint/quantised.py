"""Which layers of a file are quantised and how, in both of ComfyUI's layouts; unpacking those in fp8.

Old: an entry `scaled_fp8`, and `<layer>.scale_weight` beside each fp8 weight.
New: a format for each layer, as JSON in the entry `<layer>.comfy_quant` or in the header under
`_quantization_metadata`; the scales are `<layer>.weight_scale`.
"""

import json
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import CheckpointError
from .gguf_io import GgufTensors
from .safetensors_io import QUANTISATION_HEADER, Checkpoint, readable

OLD_MARK = "scaled_fp8"
NEW_ENDING = ".comfy_quant"
# Entries that quantised files add beside a layer's weight.
ENDINGS = (
    ".scale_weight", ".scale_input", NEW_ENDING, ".weight_scale", ".weight_scale_2", ".input_scale", ".pre_quant_scale",
)  # fmt: skip
FP8 = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}
TWO_A_BYTE = {"nvfp4", "convrot_w4a4"}
ROWS = 256
PLAIN = (torch.float32, torch.bfloat16, torch.float16)


def is_quantisation_entry(name: str) -> bool:
    return name == OLD_MARK or name.endswith(ENDINGS)


def quantised_layers(checkpoint: Checkpoint) -> dict[str, str]:
    """Layer name -> format ("float8_e4m3fn", "nvfp4", ...). Raises CheckpointError for entries that cannot be read."""
    tensors, layers = checkpoint.tensors, {}
    with readable(checkpoint.path):
        noted = json.loads(checkpoint.metadata.get(QUANTISATION_HEADER, "{}")).get("layers", {})
        for name, how in noted.items():
            layers[name] = str(how["format"])
        for name in checkpoint.shapes:
            if name.endswith(NEW_ENDING):
                layers[name.removesuffix(NEW_ENDING)] = str(json.loads(bytes(tensors[name].tolist()))["format"])
            elif name.endswith(".scale_weight"):
                layers[name.removesuffix(".scale_weight")] = _name_of(tensors, name)
    return layers


def weight_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights as the model has them: two 4-bit values share a stored byte."""
    shapes = checkpoint.shapes
    for layer, how in quantised_layers(checkpoint).items():
        stored = shapes.get(f"{layer}.weight")
        if how in TWO_A_BYTE and stored is not None:
            shapes[f"{layer}.weight"] = (*stored[:-1], 2 * stored[-1])
    return shapes


def plain_tensors(checkpoint: Checkpoint, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The weights without quantisation, in `dtype`; None keeps plain weights as stored and unpacks others to bf16.

    Unpacks one tensor at a time. Raises CheckpointError for formats other than fp8 and GGUF.
    """
    layers = quantised_layers(checkpoint)
    others = sorted(set(layers.values()) - FP8.keys())
    if others:
        raise CheckpointError(
            f"{checkpoint.path} is quantised as {', '.join(others)}, which only ComfyUI's own loader reads. "
            "Load it in ComfyUI on one device, or use a bf16, fp16, fp8 or GGUF file."
        )
    unpacked = dtype or torch.bfloat16
    packed = isinstance(checkpoint.tensors, GgufTensors)
    plain = {}
    for name in checkpoint.shapes:
        if is_quantisation_entry(name):
            continue
        layer = name.removesuffix(".weight")
        if layer in layers and name != layer:
            plain[name] = _scaled(checkpoint.read(name), _scale(checkpoint, layer), unpacked)
            continue
        stored = None if packed else checkpoint.tensors[name].dtype
        wanted = (dtype or stored) if stored in PLAIN else unpacked
        plain[name] = checkpoint.tensors[name] if stored == wanted else checkpoint.read(name).to(wanted)
    return plain


def _scaled(stored: Tensor, scale: Tensor | float, dtype: torch.dtype) -> Tensor:
    """stored * scale, computed in float32 a few rows at a time: whole weights in float32 would double the peak."""
    result = torch.empty(stored.shape, dtype=dtype)
    for part, values in zip(result.split(ROWS), stored.split(ROWS), strict=True):
        part.copy_(values.float() * scale)
    return result


def _scale(checkpoint: Checkpoint, layer: str) -> Tensor | float:
    scale = checkpoint.tensors.get(f"{layer}.weight_scale", checkpoint.tensors.get(f"{layer}.scale_weight"))
    return 1.0 if scale is None else scale.float()


def _name_of(tensors: Mapping[str, Tensor], scale: str) -> str:
    """Format of a layer in the old layout, which tells it by the weight's own dtype."""
    weight = tensors.get(f"{scale.removesuffix('.scale_weight')}.weight")
    return next((name for name, dtype in FP8.items() if weight is not None and weight.dtype == dtype), "float8_e4m3fn")
