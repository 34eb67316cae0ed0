"""Scales that nobody would read, and quantised weights without them, are refused by name."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from liveavatar_runtime.checkpoint.quantised import QuantisedLayer, quantised_layers
from liveavatar_runtime.checkpoint.safetensors_io import Checkpoint
from liveavatar_runtime.errors import CheckpointError

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
ONE = torch.tensor(1.0)
HALF = torch.tensor(0.5)


def note(how: str) -> Tensor:
    return torch.tensor(list(json.dumps({"format": how}).encode()), dtype=torch.uint8)


def weight(dtype: torch.dtype = E4M3) -> Tensor:
    return torch.ones(4, 8).to(dtype)


def layers_of(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> dict[str, QuantisedLayer]:
    return quantised_layers(Checkpoint(Path("some.safetensors"), tensors, metadata or {}))


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"a.weight": weight(), "a.scale_weight": HALF}, "float8_e4m3fn"),
        ({"a.weight": weight(E5M2), "a.scale_weight": HALF, "scaled_fp8": weight(E5M2)}, "float8_e5m2"),
        ({"a.weight": weight(E5M2), "a.weight_scale": torch.ones(4, 1)}, "float8_e5m2"),
        ({"a.weight": weight(E5M2), "a.weight_scale": HALF, "a.comfy_quant": note("float8_e4m3fn")}, "float8_e5m2"),
        ({"a.weight": weight(torch.int8), "a.weight_scale": torch.ones(4)}, "int8_tensorwise"),
        ({"a.weight": weight(), "a.input_scale": HALF}, None),
        ({"a.weight": weight(torch.bfloat16), "a.scale_weight": ONE}, None),
        ({"a.weight": weight()}, None),
    ],
    ids=["old", "old e5m2", "bare rows", "note of another dtype", "int8", "input alone", "scale of one", "cast"],
)
def test_formats(entries, expected):
    layers = layers_of(entries)
    assert [layer.format for layer in layers.values()] == ([] if expected is None else [expected])


REFUSED = {
    "a scale without its weight": (
        {"b.weight_scale": HALF},
        r"b\.weight_scale belongs to the weight b\.weight, which the file does not have",
    ),
    "an input scale without its weight": ({"b.scale_input": HALF}, r"b\.scale_input belongs to the weight b\.weight"),
    "a note without its weight": ({"b.comfy_quant": note("float8_e4m3fn")}, r"b\.comfy_quant belongs to"),
    "two scales": (
        {"b.weight": weight(), "b.weight_scale": HALF, "b.scale_weight": HALF},
        r"b\.weight has more than one scale: b\.weight_scale, b\.scale_weight",
    ),
    "a note without a scale": (
        {"b.weight": weight(), "b.comfy_quant": note("float8_e4m3fn")},
        r"b\.weight is float8_e4m3fn, but the file has no b\.weight_scale",
    ),
    "a scale that no format has": (
        {"b.weight": weight(), "b.weight_scale": HALF, "b.weight_scale_2": HALF},
        r"b\.weight_scale_2 is part of no format that is known for b\.weight",
    ),
    "a scale that is not a number": (
        {"b.weight": weight(), "b.weight_scale": torch.tensor([1.0, 1.0, float("nan"), 1.0])},
        r"b\.weight_scale is not a number \(NaN or infinite\)",
    ),
    "a scale for blocks": (
        {"b.weight": weight(), "b.weight_scale": torch.ones(2, 2)},
        r"b\.weight_scale is \[2, 2\]; a scale must be one number or one for each of the 4 rows",
    ),
    "a scale of a plain weight": (
        {"b.weight": weight(torch.bfloat16), "b.scale_weight": HALF},
        r"b\.scale_weight scales b\.weight, which is not quantised \(bfloat16\)",
    ),
    "a note of fp8 on a plain weight": (
        {"b.weight": weight(torch.float16), "b.weight_scale": HALF, "b.comfy_quant": note("float8_e4m3fn")},
        r"b\.weight is said to be float8_e4m3fn, but it is float16",
    ),
    "one layer of many without a scale": (
        {"b.weight": weight()},
        r"b\.weight is float8_e4m3fn, but nothing in the file is its scale \(b\.weight_scale or b\.scale_weight\)",
    ),
    "int8 without a scale": ({"b.weight": weight(torch.int8)}, r"b\.weight is int8, but nothing in the file is its"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_by_name(kind):
    entries, match = REFUSED[kind]
    with pytest.raises(CheckpointError, match=rf"^some\.safetensors: {match}.*would give noise. Use another file"):
        layers_of({"a.weight": weight(), "a.weight_scale": HALF, **entries})


def test_scales_in_a_gguf_file_are_refused(tmp_path):
    import numpy as np
    from gguf import GGMLQuantizationType as Kind
    from test_gguf import noise, write

    from liveavatar_runtime.checkpoint.safetensors_io import open_checkpoint

    tensors: dict[str, tuple[np.ndarray, Kind | None]] = {
        "a.weight": (noise(4, 64), Kind.Q8_0),
        "a.scale_weight": (noise(1), None),
    }
    with pytest.raises(CheckpointError, match=r"a\.scale_weight is a scale, but a\.weight is packed in another way"):
        quantised_layers(open_checkpoint(write(tmp_path / "model.gguf", tensors)))
