"""The runtime on module trees that ComfyUI's core loaded, patched and quantised, against its own loader."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from core_latents import BUNDLE, MODEL_FILE, adopted, difference, header_of, latents, relative_difference
from safetensors.torch import load_file, save_file

from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.config import DEMO, AvatarConfig
from liveavatar_runtime.dit.model import CausalWanS2V


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


# How each program writes a factor's name, with what it means by no alpha.
STYLES = {
    "peft": ("base_model.model.{}.lora_{}.weight", "AB", 1.0),
    "live avatar": ("base_model.model.{}.lora_{}.default.weight", "AB", 0.5),
    "comfyui": ("diffusion_model.{}.lora_{}.weight", "AB", 1.0),
    "kohya": ("lora_unet_{}.lora_{}.weight", ("down", "up"), 1.0),
    "diffusers": ("transformer.{}.lora_{}.weight", "AB", 1.0),
}


def write_lora(path: Path, style: str, modules: Mapping[str, int], seed: int = 5) -> Path:
    """A LoRA of rank 4 without alpha for square layers of the given sizes."""
    generator = torch.Generator().manual_seed(seed)
    pattern, sides, _ = STYLES[style]
    tensors = {}
    for module, size in modules.items():
        written = module.replace(".", "_") if style == "kohya" else module
        for side, shape in zip(sides, ((4, size), (size, 4)), strict=True):
            tensors[pattern.format(written, side)] = torch.randn(*shape, generator=generator) / 4
    save_file(tensors, path)
    return path


MODULES: dict[str, int] = dict.fromkeys(
    ("blocks.0.self_attn.q", "blocks.3.cross_attn.o", "audio_injector.injector.1.k"), DEMO.dim
)


@pytest.mark.parametrize("style", STYLES)
def test_every_naming_of_loras_gives_the_same(core_model, expected, tmp_path, style):
    """Through core and merged by us: the same, and as strong as the naming means it."""
    lora = write_lora(tmp_path / "lora.safetensors", style, MODULES)
    patched = latents(adopted(core_model, core_model.load_with_core(MODEL_FILE, [(lora, 0.8)], torch.float32)))
    assert difference(patched, latents(load_transformer(MODEL_FILE, [(lora, 0.8)], torch.float32))) <= 1e-4
    peft = write_lora(tmp_path / "peft.safetensors", "peft", MODULES)
    strength = 0.8 * STYLES[style][-1] / STYLES["peft"][-1]
    assert difference(patched, latents(load_transformer(MODEL_FILE, [(peft, strength)], torch.float32))) <= 1e-4
    assert difference(patched, expected) > 1e-2


def test_several_loras_add_up(core_model, expected, tmp_path):
    loras = [
        (write_lora(tmp_path / f"{style}.safetensors", style, MODULES, seed), strength)
        for style, seed, strength in (("peft", 1, 1.0), ("kohya", 2, -0.5), ("comfyui", 3, 0.3))
    ]
    merged = latents(load_transformer(MODEL_FILE, loras, torch.float32))
    patched = latents(adopted(core_model, core_model.load_with_core(MODEL_FILE, loras, torch.float32)))
    assert difference(patched, merged) <= 1e-4
    for count in (0, 1, 2):
        assert difference(merged, latents(load_transformer(MODEL_FILE, loras[:count], torch.float32))) > 1e-2


def test_what_does_not_fit_is_left_out_and_told(core_model, tmp_path):
    modules = {**MODULES, "blocks.9.self_attn.q": 128, "blocks.1.ffn.0": 64}
    lora = write_lora(tmp_path / "lora.safetensors", "kohya", modules)
    patcher = core_model.load_with_core(MODEL_FILE, [], torch.float32)
    patched, (fitted,) = core_model.with_loras(patcher, [(lora, 0.8)])
    assert fitted.describe(0.8) == "lora.safetensors: strength 0.8, scale 1 (no alpha stored), 3 of 5 modules"
    told = fitted.shortfall()
    assert "blocks_9_self_attn_q (not in this model)" in told
    assert "blocks_1_ffn_0 (made for a 64x64 layer, the model's is 256x128)" in told
    assert len(patched.patches) == 3 and not patcher.patches


@pytest.mark.parametrize(
    ("modules", "match"),
    [
        ({"other.0": 8}, r"lora\.safetensors fits no layer.*other\.0.*such as liveavatar\.safetensors"),
        ({"blocks.0.self_attn.q": 64}, r"made for a 64x64 layer, the model's is 128x128.*another model"),
    ],
    ids=["names", "sizes"],
)
def test_a_lora_that_fits_nothing_is_refused(core_model, tmp_path, modules, match):
    """Core alone would take one of another size and then leave it out, layer by layer, in its log."""
    lora = write_lora(tmp_path / "lora.safetensors", "peft", modules)
    with pytest.raises(ValueError, match=match):
        core_model.load_with_core(MODEL_FILE, [(lora, 1.0)], None)
    with pytest.raises(ValueError, match=match):
        load_transformer(MODEL_FILE, [(lora, 1.0)])


def test_a_model_given_as_lora(core_model):
    with pytest.raises(
        ValueError, match="is not a LoRA: it looks like a Wan2.2-S2V model.*a full model belongs in the model input"
    ):
        core_model.load_with_core(MODEL_FILE, [(MODEL_FILE, 1.0)], None)


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


@pytest.mark.parametrize("with_lora", [False, True], ids=["plain", "lora"])
def test_streamed_weights_give_the_same_bits_as_resident_ones(core_model, tmp_path, with_lora):
    """As with --lowvram and --novram: modules fetch and patch their weights at every use, here from the same RAM."""
    loras = [(write_lora(tmp_path / "lora.safetensors", "peft", MODULES), 0.8)] if with_lora else []
    resident = latents(adopted(core_model, core_model.load_with_core(MODEL_FILE, loras, None)))
    patcher = core_model.load_with_core(MODEL_FILE, loras, None)
    patcher.load(torch.device("cpu"), lowvram_model_memory=1)
    assert patcher.model.model_loaded_weight_memory < 0.1 * patcher.model_size()
    avatar = core_model.adopt(patcher)
    config = AvatarConfig.from_dict(avatar.config.to_dict())
    streamed = latents(CausalWanS2V.adopt(patcher.get_model_object("diffusion_model"), config))
    assert difference(streamed, resident) <= (1e-5 if with_lora else 0)
