"""The runtime on module trees that ComfyUI's core loaded, patched and quantised, against its own loader."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from core_latents import BUNDLE, MODEL_FILE, adopted, difference, header_of, latents, relative_difference
from safetensors.torch import load_file, save_file

from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.config import DEMO


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    return latents(load_transformer(BUNDLE.model, dtype=torch.float32))


@pytest.mark.parametrize("source", ["folder", "file"])
def test_core_loads_and_gives_the_same_latents(core_model, expected, source):
    path = BUNDLE.model if source == "folder" else MODEL_FILE
    model = adopted(core_model, core_model.load_with_core(path, [], None))
    assert model.config == replace(DEMO, motion_frames=model.config.motion_frames)
    assert difference(latents(model), expected) <= 1e-5


def test_a_config_in_the_folder_stands_in_for_the_header(core_model, expected, tmp_path):
    """The official folder has a config.json and plain headers; core still gets what shapes cannot tell."""
    save_file(load_file(MODEL_FILE), tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(BUNDLE.config.read_text())
    assert difference(latents(adopted(core_model, core_model.load_with_core(tmp_path, [], None))), expected) <= 1e-5


def test_weights_in_half_precision_compute_near_the_same(core_model, expected):
    """Weights are stored in bf16, so keeping them so changes nothing; fp8 does."""
    same = latents(adopted(core_model, core_model.load_with_core(MODEL_FILE, [], torch.bfloat16)))
    assert difference(same, expected) <= 1e-5
    fp8 = latents(adopted(core_model, core_model.load_with_core(MODEL_FILE, [], torch.float8_e4m3fn)))
    assert 1e-4 < relative_difference(fp8, expected) < 0.2


@pytest.fixture(scope="module")
def lora_file(tmp_path_factory) -> Path:
    """A LoRA in the naming of the published one: rank 4, no alpha in the file."""
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    for name in ("blocks.0.self_attn.q", "blocks.3.cross_attn.o", "audio_injector.injector.1.k"):
        tensors[f"base_model.model.{name}.lora_A.default.weight"] = torch.randn(4, DEMO.dim, generator=generator) / 4
        tensors[f"base_model.model.{name}.lora_B.default.weight"] = torch.randn(DEMO.dim, 4, generator=generator) / 4
    path = tmp_path_factory.mktemp("lora") / "lora.safetensors"
    save_file(tensors, path)
    return path


def test_cores_lora_equals_our_merge(core_model, expected, lora_file):
    merged = latents(load_transformer(BUNDLE.model, [(lora_file, 0.8)], torch.float32))
    patched = latents(adopted(core_model, core_model.load_with_core(MODEL_FILE, [(lora_file, 0.8)], torch.float32)))
    assert difference(merged, expected) > 1e-2
    assert difference(patched, merged) <= 1e-4


def test_a_lora_that_fits_nothing_is_refused(core_model, tmp_path):
    foreign = tmp_path / "foreign.safetensors"
    save_file({"other.0.lora_A.weight": torch.ones(2, 8), "other.0.lora_B.weight": torch.ones(8, 2)}, foreign)
    with pytest.raises(ValueError, match="fits no layer"):
        core_model.load_with_core(MODEL_FILE, [(foreign, 1.0)], None)


def test_a_model_of_another_architecture_is_refused(core_model):
    class Patcher:
        def get_model_object(self, name: str) -> torch.nn.Module:
            return torch.nn.Linear(2, 2)

    with pytest.raises(ValueError, match="Linear, which has no audio encoder"):
        core_model.adopt(Patcher())


def fp8_scaled(tensors: dict[str, torch.Tensor], prefix: str = "") -> dict[str, torch.Tensor]:
    """The layout of ComfyUI's repackaged `..._fp8_scaled.safetensors`: e4m3 weights of the layers with their scales."""
    scaled = {f"{prefix}scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn)}
    for name, tensor in tensors.items():
        if name.startswith("blocks.") and name.endswith(".weight") and tensor.ndim == 2:
            scale = tensor.float().abs().max() / torch.finfo(torch.float8_e4m3fn).max
            scaled[f"{prefix}{name}"] = (tensor.float() / scale).to(torch.float8_e4m3fn)
            scaled[f"{prefix}{name.removesuffix('weight')}scale_weight"] = scale.reshape(1)
        else:
            scaled[f"{prefix}{name}"] = tensor
    return scaled


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_scaled_fp8_file_loads_with_its_scales(core_model, expected, tmp_path, prefix):
    file = tmp_path / "scaled.safetensors"
    header = {"config": header_of(MODEL_FILE)["config"]}
    save_file(fp8_scaled(load_file(MODEL_FILE), prefix), file, metadata=header)
    result = latents(adopted(core_model, core_model.load_with_core(file, [], None)))
    assert 1e-4 < relative_difference(result, expected) < 0.2
