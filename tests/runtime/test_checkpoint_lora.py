"""LoRA files in every naming: which modules they change, how strongly, and what is said about the rest."""

import json

import pytest
import torch
from lora_merging import merge_lora
from safetensors.torch import save_file

from liveavatar_runtime.checkpoint.lora import FittedLora, fit_lora, open_lora, read_lora
from liveavatar_runtime.checkpoint.lora_names import ModuleNames, split_name
from liveavatar_runtime.errors import CheckpointError

RANK = 4
MODULES = {"blocks.0.self_attn.q": (12, 12), "blocks.1.ffn.0": (20, 12), "audio_injector.injector.0.o": (12, 12)}
# How each program writes a module's factors: prefix, names of down and up, and the scale it means without an alpha.
STYLES = {
    "live avatar": ("base_model.model.", "lora_A.default", "lora_B.default", 0.5),
    "diffsynth": ("", "lora_A.default", "lora_B.default", 1.0),
    "diffsynth pipeline": ("pipe.dit.", "lora_A.default", "lora_B.default", 1.0),
    "peft export": ("base_model.model.", "lora_A", "lora_B", 1.0),
    "peft of a wrapped model": ("base_model.model.diffusion_model.", "lora_A.default", "lora_B.default", 1.0),
    "oldest diffusers": ("unet.", "lora.down", "lora.up", 1.0),
    "mochi": ("", "lora_A", "lora_B", 1.0),
    "comfyui": ("diffusion_model.", "lora_A", "lora_B", 1.0),
    "comfyui up and down": ("diffusion_model.", "lora_down", "lora_up", 1.0),
    "diffusers": ("transformer.", "lora_A", "lora_B", 1.0),
    "kohya": ("lora_unet_", "lora_down", "lora_up", 1.0),
    "kohya, videox": ("lora_unet__", "lora_down", "lora_up", 1.0),
    "lycoris": ("lycoris_", "lora_down", "lora_up", 1.0),
    "a program that nobody knows": ("net.module.", "lora_down", "lora_up", 1.0),
}
KOHYA = ("lora_unet_", "lora_unet__", "lycoris_")


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def base() -> dict[str, torch.Tensor]:
    """Weights of a model; `blocks.0.self_attn.k` is one more module of Live Avatar's than MODULES has."""
    weights = {f"{name}.weight": draw(*shape) for name, shape in MODULES.items()}
    others = {
        "head.head.weight": draw(64, 12),
        "blocks.0.modulation": draw(1, 6, 12),
        "blocks.0.norm3.weight": draw(12),
    }
    return {**weights, **others, "blocks.0.self_attn.q.bias": draw(12), "blocks.0.self_attn.k.weight": draw(12, 12)}


def factors(module: str) -> tuple[torch.Tensor, torch.Tensor]:
    out, into = MODULES[module]
    return draw(RANK, into), draw(out, RANK)


def lora(style: str) -> dict[str, torch.Tensor]:
    prefix, down, up, _ = STYLES[style]
    tensors = {}
    for module in MODULES:
        written = prefix + (module.replace(".", "_") if prefix in KOHYA else module)
        leaf = "" if style == "mochi" else ".weight"
        tensors[f"{written}.{down}{leaf}"], tensors[f"{written}.{up}{leaf}"] = factors(module)
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
    written = {split.module for name in lora(style) if (split := split_name(name))}
    alphas = {f"{name}.alpha": torch.tensor(3.0) for name in written}
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


def fitted(tensors: dict[str, torch.Tensor], **entries: object) -> FittedLora:
    metadata = {"lora_adapter_metadata": json.dumps(entries)} if entries else {}
    return fit_lora(
        read_lora(tensors, metadata, "some/lora.safetensors"), {n: tuple(t.shape) for n, t in base().items()}
    )


def scales(result: FittedLora) -> dict[str, float]:
    return {change.target.removesuffix(".weight"): change.scale.value for change in result.changes}


def test_what_did_not_fit_is_told_by_name_and_reason():
    tensors = {
        **lora("live avatar"),
        "blocks.9.self_attn.q.lora_A.default.weight": draw(RANK, 12),
        "blocks.9.self_attn.q.lora_B.default.weight": draw(12, RANK),
        "head.head.lora_A.default.weight": draw(RANK, 13),
        "head.head.lora_B.default.weight": draw(64, RANK),
        "blocks.0.self_attn.k.lora_A.default.weight": draw(RANK, 12),
        "base_model.model.blocks.0.self_attn.q.diff_b": draw(13),
        "blocks.0.norm1.diff": draw(12),
        "blocks.0.oft_R.weight": draw(12),
    }
    result = merge_lora(base(), tensors)
    assert sorted(result.matched) == sorted(MODULES)
    told = result.fitted.shortfall()
    assert told and told.startswith("given is only partly applied: 2 of 7 modules. Left out: ")
    assert "blocks.0.oft_R.weight, blocks.0.self_attn.k.down (not understood)" in told
    assert "blocks.9.self_attn.q, blocks.0.norm1 (not in this model)" in told
    assert "head.head (made for a 64x13 layer, the model's is 64x12)" in told
    assert "base_model.model.blocks.0.self_attn.q.diff_b (13, the model's is 12)" in told


def test_nothing_is_left_out_of_a_file_that_fits():
    assert fitted(lora("kohya")).shortfall() is None
    assert (
        fitted(lora("kohya")).describe(0.8)
        == "lora.safetensors: strength 0.8, scale 1 (no alpha stored), 3 of 3 modules"
    )


def live_avatar_set(pattern: str, sides: tuple[str, str]) -> dict[str, torch.Tensor]:
    modules = {**MODULES, "blocks.0.self_attn.k": (12, 12)}
    written = {module: module.replace(".", "_") if pattern.startswith("lora_unet") else module for module in modules}
    return {
        pattern.format(written[module], side): draw(*shape)
        for module, (out, into) in modules.items()
        for side, shape in zip(sides, ((RANK, into), (out, RANK)), strict=True)
    }


@pytest.mark.parametrize(
    ("pattern", "sides"),
    [
        ("base_model.model.{}.lora_{}.weight", ("A", "B")),
        ("{}.lora_{}.default.weight", ("A", "B")),
        ("diffusion_model.{}.lora_{}.weight", ("A", "B")),
        ("lora_unet_{}.lora_{}.weight", ("down", "up")),
    ],
)
def test_live_avatars_modules_mean_half_in_every_naming(pattern, sides):
    whole = live_avatar_set(pattern, sides)
    assert set(scales(fitted(whole)).values()) == {0.5}
    assert "scale 0.5 (no alpha stored, Live Avatar's modules)" in fitted(whole).describe(1)
    # One module less, or one more that this model does not have, is another LoRA.
    fewer = {name: tensor for name, tensor in whole.items() if "ffn" not in name}
    assert set(scales(fitted(fewer)).values()) == {1.0}
    more = {name.replace("self_attn", "img_attn"): tensor for name, tensor in whole.items() if "self_attn.q" in name}
    if more:
        assert set(scales(fitted(whole | more)).values()) == {1.0}
    # What the file says counts more.
    assert set(scales(fitted(whole, lora_alpha=RANK)).values()) == {1.0}


def test_patterns_of_peft():
    """alpha_pattern for modules as they are written or by the end of their names; the rank is that of the factors."""
    entries = {"transformer.r": 99, "transformer.lora_alpha": 4, "text_encoder.lora_alpha": 400}
    patterns = {"blocks.1.ffn.0": 16, r"injector\.\d+\.o": 8}
    tensors = lora("comfyui")
    for side, shape in (("A", (2, 12)), ("B", (12, 2))):
        tensors[f"diffusion_model.blocks.0.self_attn.q.lora_{side}.weight"] = draw(*shape)
    found = scales(fitted(tensors, **entries, **{"transformer.alpha_pattern": patterns}))
    assert found == {"blocks.0.self_attn.q": 2.0, "blocks.1.ffn.0": 4.0, "audio_injector.injector.0.o": 2.0}
    root = scales(fitted(tensors, **entries, **{"transformer.use_rslora": True}))
    assert root["blocks.0.self_attn.q"] == pytest.approx(4 / 2**0.5)
    assert root["blocks.1.ffn.0"] == pytest.approx(4 / RANK**0.5)


def test_differences_and_trained_biases():
    """LightX2V's differences of biases, norms and modulations; a bias trained by PEFT is as strong as its factors."""
    module, bias, norm, modulation = "blocks.0.self_attn.q", draw(12), draw(12), draw(1, 6, 12)
    tensors = {
        "diffusion_model.blocks.0.norm3.diff": norm,
        "diffusion_model.blocks.0.diff_m": modulation,
        f"diffusion_model.{module}.diff_b": bias,
    }
    result = merge_lora(base(), tensors, 0.5)
    assert not result.unmatched
    for name, change in {
        "blocks.0.norm3.weight": norm,
        "blocks.0.modulation": modulation,
        f"{module}.bias": bias,
    }.items():
        torch.testing.assert_close(result.tensors[name], base()[name] + 0.5 * change)
    peft = {**lora("peft export"), f"base_model.model.{module}.lora_B.bias": bias}
    result = merge_lora(base(), peft, metadata={"lora_alpha": "8"})
    torch.testing.assert_close(result.tensors[f"{module}.bias"], base()[f"{module}.bias"] + 2 * bias)


def test_names_of_the_other_parts_of_a_pipeline_are_not_the_transformers():
    names = ModuleNames({name: tuple(tensor.shape) for name, tensor in base().items()})
    for written in (
        "lora_te_blocks_0_self_attn_q",
        "text_encoder.blocks.0.self_attn.q",
        "lora_unet_vace_blocks_0_self_attn_q",
        "vace_blocks.0.self_attn.q",
        "blocks.0.blocks.0.self_attn.q",
        "down_blocks.0.attentions.0.proj_out",
        "self_attn.q",
    ):
        assert names.find(written) is None, written
    for written, module in {
        "a.b_c.blocks.0.self_attn.q": "blocks.0.self_attn.q",
        "transformer.blocks.0.attn1.to_q": "blocks.0.self_attn.q",
        "lora_transformer_blocks_1_ffn_net_0_proj": "blocks.1.ffn.0",
        "transformer.proj_out": "head.head",
        "blocks.0.norm2": "blocks.0.norm3",
        "blocks.0.scale_shift_table": "blocks.0.modulation",
    }.items():
        place = names.find(written)
        assert place and place.module == module, written


def test_two_loras_in_one_file():
    """The larger one is the transformer's; of equal ones nobody can tell."""
    high = {f"transformer.{name}": tensor for name, tensor in lora("diffsynth").items()}
    low = {f"transformer_2.{name}": tensor for name, tensor in lora("diffsynth").items()}
    with pytest.raises(CheckpointError, match=r"under two names, transformer\.blocks.*transformer_2\.blocks.*own"):
        fitted(high | low)
    part = {name: tensor for name, tensor in low.items() if "self_attn.q" in name}
    result = fitted(high | part)
    assert set(scales(result)) == set(MODULES)
    assert [one.name for one in result.left_out] == ["transformer_2.blocks.0.self_attn.q"]
    second = {name.replace(".default.", ".style."): tensor for name, tensor in high.items()}
    with pytest.raises(CheckpointError, match="holds two adapters for transformer.blocks.0.self_attn.q"):
        fitted(high | second)


def test_a_lora_that_matches_nothing_is_refused():
    other = {
        name.replace("blocks.", "layers.").replace("audio_", "sound_"): t for name, t in lora("peft export").items()
    }
    with pytest.raises(CheckpointError, match=r"fits no layer.*none of its 3 modules.*layers\.0"):
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
    # In a folder of many LoRAs it says nothing about the others.
    save_file(lora("peft export"), tmp_path / "other.safetensors")
    assert_merged(merge_lora(base(), open_lora(tmp_path / "other.safetensors")), 1.0)


def test_file_that_is_no_lora(tmp_path):
    save_file(base(), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="is not a LoRA: it looks like an unknown model of 8 tensors"):
        open_lora(tmp_path / "model.safetensors")
