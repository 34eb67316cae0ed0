"""Files quantised by ComfyUI's own code, in every format and layout it reads, through core and our own loader."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from core_latents import BUNDLE, MODEL_FILE, adopted, difference, header_of, latents, relative_difference
from safetensors.torch import load_file, save_file

from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.errors import CheckpointError

PREFIXES = ("", "model.diffusion_model.")
# Largest relative change of the latents; the formats have 8 bits (3 or 2 of them mantissa) or 4.
FORMATS = {
    "float8_e4m3fn": 0.1,
    "float8_e5m2": 0.15,
    "mxfp8": 0.1,
    "int8_tensorwise": 0.05,
    "nvfp4": 0.25,
    "convrot_w4a4": 0.3,
}
QUANTISED_INPUTS = {"int8_tensorwise", "convrot_w4a4"}
"""Formats for which core also quantises what it multiplies with the weights, on every device."""
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    return latents(load_transformer(BUNDLE.model, dtype=torch.float32))


def is_quantised(name: str, weight: torch.Tensor) -> bool:
    return name.startswith("blocks.") and name.endswith(".weight") and weight.ndim == 2


def quantised_by_core(how: str, prefix: str = "") -> tuple[State, State]:
    """Entries of a file in core's new layout, and the model's weights with what those stand for."""
    import comfy.ops
    import comfy.quant_ops

    layout = comfy.quant_ops.QUANT_ALGOS[how]["comfy_tensor_layout"]
    operations: Any = comfy.ops.mixed_precision_ops({}, torch.bfloat16)
    tensor_class: Any = comfy.quant_ops.QuantizedTensor
    options: dict[str, Any] = {"scale": "recalculate"} if how in ("float8_e4m3fn", "float8_e5m2", "nvfp4") else {}
    if how == "convrot_w4a4":
        options["convrot_groupsize"] = 64
    entries, meant = {}, {}
    for name, weight in load_file(MODEL_FILE).items():
        if is_quantised(name, weight):
            packed = tensor_class.from_float(weight, layout, **options)
            layer = operations.Linear(weight.shape[1], weight.shape[0], bias=False, device="cpu")
            layer.quant_format, layer.layout_type = how, layout
            layer.weight = torch.nn.Parameter(packed, requires_grad=False)
            layer.state_dict(destination=entries, prefix=prefix + name.removesuffix("weight"))
            weight = packed.dequantize()
        else:
            entries[prefix + name] = weight
        meant[name] = weight
    return {name: tensor.data.contiguous().clone() for name, tensor in entries.items()}, meant


def formats_in_header(entries: State) -> tuple[State, dict[str, str]]:
    """The same file with the formats of its layers in the header instead of in entries."""
    ending = ".comfy_quant"
    layers = {
        name.removesuffix(ending): json.loads(bytes(tensor.tolist()))
        for name, tensor in entries.items()
        if name.endswith(ending)
    }
    kept = {name: tensor for name, tensor in entries.items() if not name.endswith(ending)}
    return kept, {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}


def old_layout(entries: State, prefix: str) -> State:
    """The same fp8 file as ComfyUI's first repackaged ones: a mark, and other names of the scales."""
    renamed = {name.replace(".weight_scale", ".scale_weight"): tensor for name, tensor in entries.items()}
    kept = {name: tensor for name, tensor in renamed.items() if not name.endswith(".comfy_quant")}
    return {**kept, f"{prefix}scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn)}


def write(path: Path, entries: State, header: dict[str, str] | None = None) -> Path:
    save_file(entries, path, metadata={"config": header_of(MODEL_FILE)["config"], **(header or {})})
    return path


def variants(how: str, layout: str, prefix: str, folder: Path) -> tuple[Path, State]:
    entries, meant = quantised_by_core(how, prefix)
    header = {}
    if layout == "header":
        entries, header = formats_in_header(entries)
    elif layout == "old":
        entries = old_layout(entries, prefix)
    return write(folder / f"{how}.safetensors", entries, header), meant


def meant_latents(meant: State, folder: Path) -> torch.Tensor:
    """Latents of our own loader with the unpacked weights, in a plain file."""
    return latents(load_transformer(write(folder / "plain.safetensors", meant), dtype=torch.float32))


CASES = [(how, *variant) for how in FORMATS for variant in (("entries", ""), ("header", PREFIXES[1]))]
CASES += [("float8_e4m3fn", *variant) for variant in (("entries", PREFIXES[1]), ("old", ""), ("old", PREFIXES[1]))]


@pytest.mark.parametrize(("how", "layout", "prefix"), CASES)
def test_core_computes_with_the_weights_the_file_stands_for(core_model, expected, tmp_path, how, layout, prefix):
    file, meant = variants(how, layout, prefix, tmp_path)
    result = latents(adopted(core_model, core_model.load_with_core(file, [], None)))
    assert 1e-4 < relative_difference(result, expected) < FORMATS[how]
    bound = FORMATS[how] if how in QUANTISED_INPUTS else 1e-2
    assert relative_difference(result, meant_latents(meant, tmp_path)) < bound


@pytest.mark.parametrize(("layout", "prefix"), [("entries", ""), ("header", PREFIXES[1]), ("old", PREFIXES[1])])
@pytest.mark.parametrize("how", ["float8_e4m3fn", "float8_e5m2"])
def test_our_own_loader_unpacks_fp8(tmp_path, comfy, how, layout, prefix):
    file, meant = variants(how, layout, prefix, tmp_path)
    assert difference(latents(load_transformer(file, dtype=torch.float32)), meant_latents(meant, tmp_path)) < 2e-2
    assert load_transformer(file).get_parameter("blocks.0.self_attn.q.weight").dtype == torch.bfloat16


@pytest.mark.parametrize("how", ["nvfp4", "mxfp8", "int8_tensorwise", "convrot_w4a4"])
def test_our_own_loader_refuses_other_formats_with_what_to_do(tmp_path, comfy, how):
    with pytest.raises(CheckpointError, match=rf"quantised as {how}.*Load it in ComfyUI"):
        load_transformer(variants(how, "entries", "", tmp_path)[0])


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp8_e4m3fn", "as in file"])
def test_precision_leaves_quantised_layers_as_they_are(core_model, tmp_path, precision):
    named = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8_e4m3fn": torch.float8_e4m3fn}
    file, meant = variants("float8_e4m3fn", "entries", "", tmp_path)
    patcher = core_model.load_with_core(file, [], named.get(precision, precision))
    weight = patcher.get_model_object("diffusion_model").blocks[0].self_attn.q.weight
    assert weight._qdata.dtype == torch.float8_e4m3fn
    assert relative_difference(latents(adopted(core_model, patcher)), meant_latents(meant, tmp_path)) < 2e-2


def test_a_lora_on_a_quantised_file(core_model, tmp_path):
    """Core unpacks a patched layer, adds the LoRA and packs it again."""
    generator = torch.Generator().manual_seed(5)
    factors = {
        "lora_down": torch.randn(4, 128, generator=generator),
        "lora_up": torch.randn(128, 4, generator=generator),
    }
    lora = {f"diffusion_model.blocks.0.self_attn.q.{name}.weight": value / 4 for name, value in factors.items()}
    save_file(lora, tmp_path / "lora.safetensors")
    file, _ = variants("float8_e4m3fn", "entries", "", tmp_path)
    loras = [(tmp_path / "lora.safetensors", 1.0)]
    plain = latents(adopted(core_model, core_model.load_with_core(file, [], None)))
    patched = latents(adopted(core_model, core_model.load_with_core(file, loras, None)))
    merged = latents(load_transformer(file, loras, torch.float32))
    assert relative_difference(patched, plain) > 1e-2
    assert relative_difference(patched, merged) < 0.1 * relative_difference(merged, plain) + 0.05
