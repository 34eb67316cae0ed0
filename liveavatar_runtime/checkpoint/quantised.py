"""Which layers of a file are quantised, how, and where their scales are: every layout that programs write, as one.

- Old (ComfyUI's first, KJ): `<layer>.scale_weight` beside each fp8 weight, mostly an entry `scaled_fp8`.
- New (ComfyUI): a format for each layer, as JSON in the entry `<layer>.comfy_quant` or in the header under
  `_quantization_metadata`; the scales are `<layer>.weight_scale`.
- Bare (LightX2V and others): `<layer>.weight_scale` alone, one number or one for each row.

The dtype of a weight tells its format where nothing else does. A scale that would be read by nobody is an error: such
weights are noise.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..reading import parse_json, readable
from .safetensors_io import QUANTISATION_HEADER, Checkpoint

OLD_MARK = "scaled_fp8"
NOTE = ".comfy_quant"
SCALES = (".weight_scale", ".scale_weight")
INPUT_SCALES = (".input_scale", ".scale_input")
NVFP4_SCALES = (".weight_scale_2", ".pre_quant_scale")
# Entries that quantised files add beside a layer's weight.
ENDINGS = (*SCALES, *INPUT_SCALES, NOTE, *NVFP4_SCALES)
FP8 = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}
INT8 = "int8_tensorwise"
NVFP4 = "nvfp4"
FORMATS = {**{dtype: name for name, dtype in FP8.items()}, torch.int8: INT8}
"""What a weight with a scale is when nothing but its dtype tells."""
TWO_A_BYTE = {NVFP4, "convrot_w4a4"}
ROWS = 256
LONGEST_NOTE = 2**16
"""Bytes of what a layer has to say about its format."""
INSTEAD = (
    "Computing with it would give noise. Use another file, such as wan2.2_s2v_14B_fp8_scaled.safetensors or a bf16 one."
)


@dataclass(frozen=True)
class QuantisedLayer:
    """A layer's format ("float8_e4m3fn", "nvfp4", ...), and the entries that belong to it.

    `note` is the content of its `comfy_quant`; `scale` and `input_scale` are names of entries, None without.
    """

    format: str
    scale: str | None = None
    input_scale: str | None = None
    note: Mapping[str, Any] = field(default_factory=dict)


def is_quantisation_entry(name: str) -> bool:
    return name == OLD_MARK or name.endswith(ENDINGS)


def quantised_layers(checkpoint: Checkpoint) -> dict[str, QuantisedLayer]:
    """Layer name -> how it is quantised.

    Raises CheckpointError, which names the entry, for what cannot be read, for a scale without its weight and for a
    quantised weight without its scale.
    """
    with readable(checkpoint.path, "quantised weights"):
        notes = _notes(checkpoint)
        entries = [name for name in checkpoint.shapes if name.endswith(ENDINGS)]
        names = dict.fromkeys([*notes, *(_layer_of(name) for name in entries)])
        layers = {name: _read_layer(checkpoint, name, notes.get(name)) for name in names}
        found = {name: layer for name, layer in layers.items() if layer is not None}
        _refuse_scaleless(checkpoint, found)
        return found


def weight_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights as the model has them: two 4-bit values share a stored byte."""
    shapes = dict(checkpoint.shapes)
    for layer, how in quantised_layers(checkpoint).items():
        stored = shapes.get(f"{layer}.weight")
        if how.format in TWO_A_BYTE and stored is not None:
            shapes[f"{layer}.weight"] = (*stored[:-1], 2 * stored[-1])
    return shapes


def weight_scale(checkpoint: Checkpoint, layer: QuantisedLayer, rows: int, axes: int) -> Tensor:
    """A layer's scale in float32, which multiplies its stored weight: [] or [rows, 1, ...] with the weight's axes."""
    if layer.scale is None:
        return torch.ones(())
    scale = checkpoint.read(layer.scale).float()
    return scale.reshape(()) if scale.numel() == 1 else scale.reshape(rows, *[1] * (axes - 1))


def unpacked(checkpoint: Checkpoint, name: str, layer: QuantisedLayer, dtype: torch.dtype) -> Tensor:
    """The fp8 weight `name` of a layer with its scale applied, in `dtype`.

    Computed in float32 a few rows at a time: whole weights in float32 would double the peak.
    """
    # Allocated before what it is made of, so that the latter leaves no gap behind.
    result = torch.empty(checkpoint.shapes[name], dtype=dtype)
    stored = checkpoint.read(name)
    scale = weight_scale(checkpoint, layer, len(stored), stored.ndim)
    scales = scale.split(ROWS) if scale.ndim else [scale] * (-(-len(stored) // ROWS))
    for part, values, factor in zip(result.split(ROWS), stored.split(ROWS), scales, strict=True):
        part.copy_(values.float() * factor)
    return result


def _notes(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """Layer name -> content of its `comfy_quant`, from entries and header."""
    notes: dict[str, dict[str, Any]] = {}
    with readable(checkpoint.path):
        notes |= parse_json(checkpoint.metadata.get(QUANTISATION_HEADER, "{}")).get("layers", {})
        for name in checkpoint.shapes:
            if name.endswith(NOTE):
                notes[name.removesuffix(NOTE)] = _note(checkpoint, name)
        for name, note in notes.items():
            if not isinstance(note, dict) or not isinstance(note.get("format"), str):
                raise ValueError(f"the note about {name!r} names no format")
    return notes


def _note(checkpoint: Checkpoint, name: str) -> Any:
    """The JSON in an entry of bytes. Raises ValueError for anything else."""
    count = math.prod(checkpoint.shapes[name])
    if checkpoint.dtypes.get(name) not in (torch.uint8, torch.int8) or count > LONGEST_NOTE:
        raise ValueError(f"{name!r} holds no note: {list(checkpoint.shapes[name])} of {checkpoint.dtypes.get(name)}")
    return parse_json(checkpoint.read(name).reshape(-1).view(torch.uint8).numpy().tobytes())


def _layer_of(entry: str) -> str:
    return next(entry.removesuffix(ending) for ending in ENDINGS if entry.endswith(ending))


def _read_layer(checkpoint: Checkpoint, name: str, note: dict[str, Any] | None) -> QuantisedLayer | None:
    """None for a layer with a plain weight."""
    path, shapes, dtypes = checkpoint.path, checkpoint.shapes, checkpoint.dtypes
    weight, own = f"{name}.weight", [name + ending for ending in ENDINGS if name + ending in shapes]
    if weight not in shapes:
        raise CheckpointError(
            f"{path}: {own[0] if own else name} belongs to the weight {weight}, which the file does not have. {INSTEAD}"
        )
    scales = [entry for entry in own if entry.endswith(SCALES)]
    inputs = [entry for entry in own if entry.endswith(INPUT_SCALES)]
    if len(scales) > 1 or len(inputs) > 1:
        raise CheckpointError(f"{path}: {weight} has more than one scale: {', '.join(scales + inputs)}. {INSTEAD}")
    if weight not in dtypes:
        raise CheckpointError(f"{path}: {own[0]} is a scale, but {weight} is packed in another way. {INSTEAD}")
    how = str(note["format"]) if note else FORMATS.get(dtypes[weight])
    unread = [entry for entry in own if entry.endswith(NVFP4_SCALES) and how != NVFP4]
    if unread:
        raise CheckpointError(f"{path}: {unread[0]} is part of no format that is known for {weight}. {INSTEAD}")
    if note is None and how is None:
        _refuse_scale_of_plain(checkpoint, weight, scales)
        return None
    if dtypes[weight] in FORMATS and (how in FP8 or how == INT8):
        # The dtype is what is really stored; a note of the other fp8 format would be obeyed to the letter.
        how = FORMATS[dtypes[weight]]
    layer = QuantisedLayer(str(how), scales[0] if scales else None, inputs[0] if inputs else None, note or {})
    if layer.scale is None:
        if note:
            raise CheckpointError(f"{path}: {weight} is {how}, but the file has no {name}{SCALES[0]}. {INSTEAD}")
        return None
    _check_scale(checkpoint, weight, layer)
    return layer


def _check_scale(checkpoint: Checkpoint, weight: str, layer: QuantisedLayer) -> None:
    if layer.format not in FP8 and layer.format != INT8:
        return
    path, shapes, stored = checkpoint.path, checkpoint.shapes, checkpoint.dtypes[weight]
    if stored not in FORMATS:
        name = str(stored).removeprefix("torch.")
        raise CheckpointError(f"{path}: {weight} is said to be {layer.format}, but it is {name}. {INSTEAD}")
    given, rows = shapes[str(layer.scale)], shapes[weight][0] if shapes[weight] else 1
    if given not in ((), (1,), (1, 1), (rows,), (rows, 1)):
        raise CheckpointError(
            f"{path}: {layer.scale} is {list(given)}; a scale must be one number or one for each of the {rows} rows of "
            f"{weight}. {INSTEAD}"
        )
    if not checkpoint.read(str(layer.scale)).float().isfinite().all():
        raise CheckpointError(f"{path}: {layer.scale} is not a number (NaN or infinite). {INSTEAD}")


def _refuse_scale_of_plain(checkpoint: Checkpoint, weight: str, scales: list[str]) -> None:
    """A scale beside a weight that is not quantised must change nothing."""
    stored = str(checkpoint.dtypes[weight]).removeprefix("torch.")
    for entry in scales:
        if not bool((checkpoint.read(entry).float() == 1).all()):
            raise CheckpointError(
                f"{checkpoint.path}: {entry} scales {weight}, which is not quantised ({stored}). {INSTEAD}"
            )


def _refuse_scaleless(checkpoint: Checkpoint, layers: Mapping[str, QuantisedLayer]) -> None:
    """fp8 weights may have been rounded without a scale, but not some of them only; int8 means nothing without."""
    shapes = checkpoint.shapes
    scaled = any(layer.format in FP8 for layer in layers.values())
    for name, dtype in checkpoint.dtypes.items():
        layer = name.removesuffix(".weight")
        if dtype not in FORMATS or layer in layers or is_quantisation_entry(name):
            continue
        if dtype == torch.int8 or scaled and layer != name and len(shapes[name]) > 1:
            shown = str(dtype).removeprefix("torch.")
            raise CheckpointError(
                f"{checkpoint.path}: {name} is {shown}, but nothing in the file is its scale "
                f"({layer}{SCALES[0]} or {layer}{SCALES[1]}). {INSTEAD}"
            )
