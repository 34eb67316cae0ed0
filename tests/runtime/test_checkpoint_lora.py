"""LoRA files in every usual naming: same adapters, right scale, honest report."""

import json

import pytest
import torch
from safetensors.torch import save_file

from liveavatar_runtime.checkpoint.lora import merge_lora, open_lora, read_adapters
from liveavatar_runtime.errors import CheckpointError

RANK = 4
MODULES = {"blocks.0.self_attn.q": (12, 12), "blocks.1.ffn.0": (20, 12), "audio_injector.injector.0.o": (12, 12)}
# How each program writes a module's factors: prefix, names of down and up, and the scale it means without an alpha.
STYLES = {
    "live avatar": ("", "lora_A.default", "lora_B.default", 0.5),
    "live avatar with prefix": ("base_model.model.", "lora_A.default", "lora_B.default", 0.5),
    "peft export": ("base_model.model.", "lora_A", "lora_B", 0.5),
    "comfyui": ("diffusion_model.", "lora_A", "lora_B", 1.0),
    "comfyui up and down": ("diffusion_model.", "lora_down", "lora_up", 1.0),
    "diffusers": ("transformer.", "lora_A", "lora_B", 1.0),
    "kohya": ("lora_unet_", "lora_down", "lora_up", 1.0),
}


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def base() -> dict[str, torch.Tensor]:
    weights = {f"{name}.weight": draw(*shape) for name, shape in MODULES.items()}
    return {**weights, "blocks.0.self_attn.q.bias": draw(12), "head.head.weight": draw(64, 12)}


def factors(module: str) -> tuple[torch.Tensor, torch.Tensor]:
    out, into = MODULES[module]
    return draw(RANK, into), draw(out, RANK)


def lora(style: str) -> dict[str, torch.Tensor]:
    prefix, down, up, _ = STYLES[style]
    tensors = {}
    for module in MODULES:
        written = prefix + (module.replace(".", "_") if style == "kohya" else module)
        tensors[f"{written}.{down}.weight"], tensors[f"{written}.{up}.weight"] = factors(module)
    return tensors


def expected(scale: float) -> dict[str, torch.Tensor]:
    merged = {}
    for module in MODULES:
        down, up = factors(module)
        merged[f"{module}.weight"] = base()[f"{module}.weight"] + scale * up @ down
    return merged


def assert_merged(result, scale: float) -> None:
    assert sorted(result.matched) == sorted(MODULES)
    assert result.tensors.keys() == expected(scale).keys()
    for name, tensor in expected(scale).items():
        torch.testing.assert_close(result.tensors[name], tensor, atol=1e-5, rtol=0)


@pytest.mark.parametrize("style", STYLES)
def test_every_naming_merges(style):
    assert_merged(merge_lora(base(), lora(style)), STYLES[style][-1])


@pytest.mark.parametrize("style", STYLES)
def test_alpha_tensors_win_over_the_default(style):
    down = [name for name in lora(style) if "lora_A" in name or "lora_down" in name]
    alphas = {name.split(".lora_")[0] + ".alpha": torch.tensor(3.0) for name in down}
    assert_merged(merge_lora(base(), {**lora(style), **alphas}), 3.0 / RANK)


@pytest.mark.parametrize("key", ["lora_adapter_metadata", "lora_config"])
@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_alpha_in_the_header(key, prefix):
    table = {prefix + "r": RANK, prefix + "lora_alpha": 6}
    result = merge_lora(base(), lora("peft export"), metadata={key: json.dumps(table)})
    assert_merged(result, 6 / RANK)
    rank_stabilised = {key: json.dumps({**table, prefix + "use_rslora": True})}
    assert_merged(merge_lora(base(), lora("peft export"), metadata=rank_stabilised), 6 / RANK**0.5)


def test_given_alpha_wins_over_everything():
    tensors = {**lora("comfyui"), "diffusion_model.blocks.0.self_attn.q.alpha": torch.tensor(1.0)}
    assert_merged(merge_lora(base(), tensors, alpha=8.0, metadata={"lora_alpha": "3"}), 8.0 / RANK)


def test_strength_scales_and_zero_changes_nothing():
    assert_merged(merge_lora(base(), lora("comfyui"), -0.3), -0.3)
    nothing = merge_lora(base(), lora("comfyui"), 0.0).tensors
    assert all(torch.equal(tensor, base()[name]) for name, tensor in nothing.items())


def test_weights_stay_as_they_are_and_keep_their_dtype():
    weights = {name: tensor.bfloat16() for name, tensor in base().items()}
    before = {name: tensor.clone() for name, tensor in weights.items()}
    result = merge_lora(weights, lora("live avatar"))
    assert all(torch.equal(weights[name], before[name]) for name in before)
    for module in MODULES:
        down, up = factors(module)
        exact = before[f"{module}.weight"].float() + 0.5 * (up @ down)
        assert torch.equal(result.tensors[f"{module}.weight"], exact.bfloat16())


def test_report_of_what_did_not_fit():
    tensors = {
        **lora("live avatar"),
        "blocks.9.self_attn.q.lora_A.default.weight": draw(RANK, 12),
        "blocks.9.self_attn.q.lora_B.default.weight": draw(12, RANK),
        "head.head.lora_A.default.weight": draw(RANK, 13),
        "head.head.lora_B.default.weight": draw(64, RANK),
        "blocks.0.self_attn.k.lora_A.default.weight": draw(RANK, 12),
        "blocks.0.norm3.diff": draw(12),
    }
    result = merge_lora(base(), tensors)
    assert sorted(result.matched) == sorted(MODULES)
    odd = {"blocks.9.self_attn.q", "head.head", "blocks.0.self_attn.k", "blocks.0.norm3.diff"}
    assert set(result.unmatched) == odd
    assert result.report().startswith("3 LoRA modules merged, 4 left out (")


def test_a_lora_that_matches_nothing_is_refused():
    other = {
        name.replace("blocks.", "layers.").replace("audio_", "sound_"): t for name, t in lora("peft export").items()
    }
    with pytest.raises(CheckpointError, match=r"fits no layer.*none of its 3 modules.*\(layers\.0"):
        merge_lora(base(), other)


def test_a_lora_of_another_size_is_refused():
    small = {name: draw(*(n // 2 for n in tensor.shape)) for name, tensor in lora("peft export").items()}
    with pytest.raises(CheckpointError, match="made for a 6x6 layer, the model's is 12x12"):
        merge_lora(base(), small)


def test_quantised_weights_are_refused():
    weights = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in base().items()}
    with pytest.raises(CheckpointError, match=r"quantised \(float8_e4m3fn\)"):
        merge_lora(weights, lora("live avatar"))


def test_file_with_peft_config_beside_it(tmp_path):
    save_file(lora("peft export"), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": 12}))
    assert_merged(merge_lora(base(), open_lora(tmp_path / "adapter_model.safetensors")), 3.0)


def test_file_that_is_no_lora(tmp_path):
    save_file(base(), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="is not a LoRA: it looks like an unknown model of 5 tensors"):
        open_lora(tmp_path / "model.safetensors")


def test_module_and_rank_of_adapters():
    adapters = read_adapters(lora("live avatar with prefix")).adapters
    assert adapters.keys() == MODULES.keys()
    assert {adapter.rank for adapter in adapters.values()} == {RANK}
