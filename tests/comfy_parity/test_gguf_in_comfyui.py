"""GGUF files in ComfyUI: unpacked by our loader, and packed in a MODEL of another loader."""

from pathlib import Path

import pytest
import torch
from core_latents import BUNDLE, MODEL_FILE, adopted, difference, latents, relative_difference
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import save_file
from test_gguf import demo_file

from liveavatar_runtime.checkpoint.transformer import load_transformer


@pytest.fixture(scope="module", params=[Kind.F16, Kind.Q8_0, Kind.Q5_0], ids=lambda kind: kind.name)
def file(request, tmp_path_factory) -> Path:
    return demo_file(tmp_path_factory.mktemp("gguf") / "model.gguf", request.param)


@pytest.fixture(scope="module")
def expected(file) -> torch.Tensor:
    """Latents of our own loader with the unpacked weights."""
    return latents(load_transformer(file, dtype=torch.float32))


def test_quantisation_changes_little(file, expected):
    plain = latents(load_transformer(BUNDLE.model, dtype=torch.float32))
    bound = {"F16": 1e-3, "Q8_0": 0.03, "Q5_0": 0.15}
    (kind,) = {kind for kind in bound if kind in open_kinds(file)}
    assert relative_difference(expected, plain) < bound[kind]


def open_kinds(file: Path) -> list[str]:
    from liveavatar_runtime.checkpoint.gguf_io import open_gguf

    return open_gguf(file)[0].kinds


@pytest.mark.parametrize("precision", [None, torch.float32, "as in file"], ids=str)
def test_our_loader_unpacks_into_cores_model(core_model, file, expected, precision):
    seen = []
    patcher = core_model.load_with_core(file, [], precision, lambda done, total: seen.append((done, total)))
    weight = patcher.get_model_object("diffusion_model").blocks[0].self_attn.q.weight
    assert weight.dtype == (torch.bfloat16 if precision == "as in file" else torch.float32)
    # Weights unpacked to bf16 are rounded once more.
    assert relative_difference(latents(adopted(core_model, patcher)), expected) < 2e-2
    total = len(load_transformer(BUNDLE.model).state_dict())
    assert seen == [(done, total) for done in range(1, total + 1)]


def test_a_model_that_unpacks_on_use(core_model, file, expected):
    import gguf_on_use

    patcher = gguf_on_use.load(file)
    layer = patcher.get_model_object("diffusion_model").blocks[0].self_attn.q
    assert (layer.packed is None) == ("F16" in open_kinds(file))
    assert difference(latents(adopted(core_model, patcher)), expected) <= 1e-5


def test_the_loader_can_make_a_second_copy(core_model, file):
    """Core asks for one to put the model on another device."""
    patcher = core_model.load_with_core(file, [], None)
    load, arguments = patcher.cached_patcher_init
    second = load(*arguments, disable_dynamic=True)
    first, other = (p.get_model_object("diffusion_model").state_dict() for p in (patcher, second))
    assert first.keys() == other.keys()
    assert all(torch.equal(first[name], other[name]) and first[name] is not other[name] for name in first)


def test_a_lora_on_an_unpacked_file(core_model, tmp_path):
    generator = torch.Generator().manual_seed(5)
    lora = {
        f"blocks.0.self_attn.q.lora_{side}.default.weight": torch.randn(*shape, generator=generator) / 4
        for side, shape in (("A", (4, 128)), ("B", (128, 4)))
    }
    save_file(lora, tmp_path / "lora.safetensors")
    loras = [(tmp_path / "lora.safetensors", 1.0)]
    packed = demo_file(tmp_path / "model.gguf", Kind.F16)
    merged = latents(load_transformer(packed, loras, torch.float32))
    patched = latents(adopted(core_model, core_model.load_with_core(packed, loras, torch.float32)))
    assert difference(patched, merged) <= 1e-4
    assert difference(merged, latents(load_transformer(MODEL_FILE, dtype=torch.float32))) > 1e-2
