"""Every layout of scales that programs write, by dtype: through core and through our own loader."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from _pytest.mark import ParameterSet
from core_latents import BUNDLE, MODEL_FILE, adopted, latents, relative_difference
from safetensors.torch import load_file
from test_quantised import State, is_quantised, meant_latents, write

from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.errors import CheckpointError

E4M3, E5M2, INT8 = torch.float8_e4m3fn, torch.float8_e5m2, torch.int8


@dataclass(frozen=True)
class Layout:
    """How a program names a layer's scale and its input's, the shape of the scale, and what it adds for the file.

    `rows`: a scale for each row. `mark` makes entries from the dtype and the prefix.
    """

    scale: str
    shape: tuple[int, ...] = ()
    rows: bool = False
    input_scale: str = ""
    mark: Callable[[torch.dtype, str], State] = lambda dtype, prefix: {}
    noted: bool = False


def kj_mark(values: int) -> Callable[[torch.dtype, str], State]:
    return lambda dtype, prefix: {f"{prefix}scaled_fp8": torch.zeros(values).to(dtype)}


LAYOUTS = {
    "KJ": Layout("scale_weight", mark=kj_mark(0)),
    "KJ, products in full precision": Layout("scale_weight", (1,), mark=kj_mark(2)),
    "KJ, scaled inputs": Layout("scale_weight", input_scale="scale_input", mark=kj_mark(0)),
    "scale_weight without a mark": Layout("scale_weight"),
    "LightX2V": Layout("weight_scale", (1,)),
    "LightX2V, scaled inputs": Layout("weight_scale", input_scale="input_scale"),
    "LightX2V, a scale for each row": Layout("weight_scale", (-1, 1), rows=True),
    "a flat scale for each row": Layout("scale_weight", (-1,), rows=True),
    "comfy_quant": Layout("weight_scale", noted=True),
    "comfy_quant, a scale for each row": Layout("weight_scale", (-1, 1), rows=True, noted=True),
}
PREFIXES = ("", "model.diffusion_model.")


def scaled_file(layout: Layout, dtype: torch.dtype, prefix: str) -> tuple[State, State]:
    """Entries of the demo model's file, and the weights that they stand for."""
    most = 127 if dtype == INT8 else torch.finfo(dtype).max
    entries: State = layout.mark(dtype, prefix)
    meant: State = {}
    for name, weight in load_file(MODEL_FILE).items():
        meant[name], entries[prefix + name] = weight, weight
        if not is_quantised(name, weight):
            continue
        weight, layer = weight.float(), prefix + name.removesuffix(".weight")
        largest = weight.abs().amax(dim=1, keepdim=True) if layout.rows else weight.abs().max()
        scale = largest / most
        stored = (weight / scale).round().to(dtype) if dtype == INT8 else (weight / scale).to(dtype)
        meant[name] = stored.float() * scale
        entries[f"{layer}.weight"] = stored
        entries[f"{layer}.{layout.scale}"] = scale.reshape(layout.shape)
        if layout.input_scale:
            entries[f"{layer}.{layout.input_scale}"] = torch.tensor(0.02)
        if layout.noted:
            note = json.dumps({"format": str(dtype).removeprefix("torch.")}).encode()
            entries[f"{layer}.comfy_quant"] = torch.tensor(list(note), dtype=torch.uint8)
    return entries, meant


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    return latents(load_transformer(BUNDLE.model, dtype=torch.float32))


def largest_change(dtype: torch.dtype) -> float:
    """Half the distance of neighbouring numbers, relative to them: what rounding changes a single weight at most.

    A sum of products changes by less, because the changes of its weights have both signs.
    """
    return torch.finfo(dtype).eps / 2


def case(number: int, name: str, second: int, dtype: torch.dtype) -> ParameterSet:
    """The other dtype goes the same way in every layout: two of them are enough for each day."""
    marks = [pytest.mark.long] if dtype == E5M2 and number % 5 else []
    return pytest.param(name, dtype, PREFIXES[(number + second) % 2], marks=marks)


CASES = [case(*of, *which) for of in enumerate(LAYOUTS) for which in enumerate((E4M3, E5M2))]


@pytest.mark.parametrize(("name", "dtype", "prefix"), CASES, ids=str)
def test_both_loaders_read_every_layout(core_model, expected, tmp_path, name, dtype, prefix):
    entries, meant = scaled_file(LAYOUTS[name], dtype, prefix)
    file = write(tmp_path / "scaled.safetensors", entries)
    told: list[str] = []
    patcher = core_model.load_with_core(file, [], None, tell=told.append)
    through_core, ours = latents(adopted(core_model, patcher)), latents(load_transformer(file, dtype=torch.float32))
    wanted = meant_latents(meant, tmp_path)
    for result in (through_core, ours):
        assert 1e-4 < relative_difference(result, expected) < largest_change(dtype)
        # Unpacked weights are rounded to bf16.
        assert relative_difference(result, wanted) < 2e-2
    weight = patcher.get_model_object("diffusion_model").blocks[0].self_attn.q.weight
    rows = LAYOUTS[name].rows
    assert hasattr(weight, "_qdata") != rows, "kept in fp8 where core computes with it"
    assert [("scale for each row" in text and "bf16" in text) for text in told] == [True] * rows


def test_a_measured_input_scale_reaches_core(core_model, tmp_path):
    file = write(tmp_path / "scaled.safetensors", scaled_file(LAYOUTS["KJ, scaled inputs"], E4M3, "")[0])
    layer = core_model.load_with_core(file, [], None).get_model_object("diffusion_model").blocks[0].ffn[0]
    assert float(layer.input_scale) == pytest.approx(0.02)


@pytest.mark.parametrize("layout", ["LightX2V", "LightX2V, a scale for each row"])
def test_int8_without_a_note(core_model, tmp_path, layout):
    """Core keeps it as it is; our own loader refuses it by name."""
    entries, meant = scaled_file(LAYOUTS[layout], INT8, "")
    file = write(tmp_path / "int8.safetensors", entries)
    patcher = core_model.load_with_core(file, [], None)
    assert patcher.get_model_object("diffusion_model").blocks[0].self_attn.q.weight._qdata.dtype == INT8
    # Core rounds what it multiplies with int8 weights to int8 as well.
    assert relative_difference(latents(adopted(core_model, patcher)), meant_latents(meant, tmp_path)) < 0.05
    with pytest.raises(CheckpointError, match=r"quantised as int8_tensorwise.*Load it in ComfyUI"):
        load_transformer(file)


def test_weights_rounded_to_fp8_without_scales(core_model, expected, tmp_path):
    """As ComfyUI itself casts: no scale belongs to them."""
    entries = {name: w.to(E4M3) if is_quantised(name, w) else w for name, w in load_file(MODEL_FILE).items()}
    file = write(tmp_path / "cast.safetensors", entries)
    for result in (
        latents(adopted(core_model, core_model.load_with_core(file, [], None))),
        latents(load_transformer(file, dtype=torch.float32)),
    ):
        # Small weights lose more than half an eps: e4m3 has no smaller exponents for them.
        assert 1e-4 < relative_difference(result, expected) < 0.2


@pytest.mark.parametrize("dtype", [E4M3, INT8], ids=str)
def test_a_quantised_condition_mask(core_model, expected, tmp_path, dtype):
    """An embedding, which the runtime looks rows up in."""
    state: State = load_file(MODEL_FILE)
    name = "trainable_cond_mask.weight"
    weight = state[name].float()
    scale = weight.abs().max() / (127 if dtype == INT8 else torch.finfo(dtype).max)
    stored = ((weight / scale).round() if dtype == INT8 else weight / scale).to(dtype)
    file = write(tmp_path / "mask.safetensors", {**state, name: stored, f"{name}_scale": scale})
    result = latents(adopted(core_model, core_model.load_with_core(file, [], None)))
    wanted = meant_latents({**state, name: stored.float() * scale}, tmp_path)
    assert relative_difference(result, wanted) < relative_difference(result, expected) / 4
