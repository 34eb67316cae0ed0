"""Architecture from names and shapes; other models, incomplete and mixed-up files are refused with what they are."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from liveavatar_runtime.checkpoint.detect import (
    config_beside,
    describe_contents,
    detect_config,
    expected_shapes,
)
from liveavatar_runtime.checkpoint.safetensors_io import Checkpoint
from liveavatar_runtime.config import DEMO, WAN_S2V_14B, AvatarConfig
from liveavatar_runtime.errors import CheckpointError

ODD = AvatarConfig(
    dim=96,
    ffn_dim=160,
    num_heads=4,
    num_layers=3,
    audio_inject_layers=(1, 2),
    audio_dim=24,
    audio_layers=7,
    num_audio_token=2,
    cond_dim=8,
    text_dim=40,
    text_len=20,
    freq_dim=64,
    eps=1e-5,
)


def checkpoint(config: AvatarConfig, metadata: Any = None, **changes: Any) -> Checkpoint:
    """Weights of the right shapes without memory; a change of None takes a tensor away, a shape or tensor replaces or
    adds one."""
    given = {name: value for name, value in changes.items() if isinstance(value, torch.Tensor)}
    shapes = {**expected_shapes(config), **{name: value for name, value in changes.items() if name not in given}}
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items() if shape is not None}
    tensors |= given
    return Checkpoint(Path("somewhere.safetensors"), tensors, metadata or {})


def refusal(file: Checkpoint, declared: dict | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        detect_config(file, declared)
    message = str(caught.value)
    assert message.startswith("somewhere.safetensors")
    return message


def test_14b_needs_no_config():
    assert detect_config(checkpoint(WAN_S2V_14B)) == WAN_S2V_14B


@pytest.mark.parametrize("config", [WAN_S2V_14B, DEMO, ODD], ids=["14b", "demo", "odd"])
def test_config_json_supplies_what_shapes_cannot_tell(config):
    assert detect_config(checkpoint(config), config.to_dict()) == config


def test_only_what_shapes_cannot_tell_is_needed():
    declared = {"num_heads": 4, "audio_inject_layers": [1, 2], "text_len": 20, "eps": 1e-5}
    assert detect_config(checkpoint(ODD), declared) == ODD


def test_config_in_the_header_of_the_file():
    header = {"config": json.dumps({"transformer": DEMO.to_dict()})}
    assert detect_config(checkpoint(DEMO, header)) == DEMO


def test_config_json_wins_over_the_header():
    header = {"config": json.dumps({"transformer": {**ODD.to_dict(), "text_len": 77}})}
    assert detect_config(checkpoint(ODD, header), ODD.to_dict()).text_len == ODD.text_len
    assert detect_config(checkpoint(ODD, header)).text_len == 77


def quantisation(how: str) -> torch.Tensor:
    """Content of a `comfy_quant` entry."""
    return torch.tensor(list(json.dumps({"format": how}).encode()), dtype=torch.uint8)


def test_entries_of_quantised_files_are_no_surprise():
    shapes = expected_shapes(DEMO)
    names = ("blocks.0.ffn.0.weight", "blocks.1.self_attn.q.weight")
    extra = {
        **{name: torch.empty(shapes[name], device="meta", dtype=torch.float8_e4m3fn) for name in names},
        "scaled_fp8": (2,),
        "blocks.0.ffn.0.scale_weight": torch.tensor(0.5),
        "blocks.0.ffn.0.scale_input": (),
        "blocks.1.self_attn.q.comfy_quant": quantisation("float8_e4m3fn"),
        "blocks.1.self_attn.q.weight_scale": torch.ones(1),
    }
    assert detect_config(checkpoint(DEMO, **extra), DEMO.to_dict()) == DEMO


def test_two_4_bit_values_share_a_byte():
    """Also in the layers whose shapes tell the architecture."""
    halved = {
        "blocks.1.self_attn.q.weight": (DEMO.dim, DEMO.dim // 2),
        "text_embedding.0.weight": (DEMO.dim, DEMO.text_dim // 2),
    }
    assert "do not belong together: text_dim" in refusal(checkpoint(DEMO, **halved), DEMO.to_dict())
    scales = {name.replace("weight", "weight_scale"): (1,) for name in halved}
    entries = {name.replace("weight", "comfy_quant"): quantisation("nvfp4") for name in halved} | scales
    assert detect_config(checkpoint(DEMO, **halved, **entries), DEMO.to_dict()) == DEMO
    layers = {name.removesuffix(".weight"): {"format": "nvfp4"} for name in halved}
    header = {"_quantization_metadata": json.dumps({"layers": layers})}
    assert detect_config(checkpoint(DEMO, header, **halved, **scales), DEMO.to_dict()) == DEMO


@pytest.mark.parametrize(
    ("entry", "header"),
    [(torch.tensor([1, 2], dtype=torch.uint8), {}), (None, {"_quantization_metadata": "{"})],
    ids=["entry", "header"],
)
def test_damaged_quantisation_entries(entry, header):
    extra = {} if entry is None else {"blocks.1.self_attn.q.comfy_quant": entry}
    assert "cannot be read as weights" in refusal(checkpoint(DEMO, header, **extra), DEMO.to_dict())


def test_layers_without_config_cannot_be_guessed():
    message = refusal(checkpoint(DEMO))
    assert "4 layers and 2 audio injectors" in message
    assert "config.json" in message


def test_first_five_and_the_count_of_missing_names():
    gone = [name for name in expected_shapes(DEMO) if name.startswith("blocks.2.")]
    message = refusal(checkpoint(DEMO, **dict.fromkeys(gone)), DEMO.to_dict())
    assert f"{len(gone)} missing: {', '.join(gone[:5])}, ..." in message
    assert gone[5] not in message


@pytest.mark.parametrize("config", [WAN_S2V_14B, DEMO], ids=["14b without config", "demo"])
def test_last_layers_missing(config):
    last = f"blocks.{config.num_layers - 1}."
    gone = [name for name in expected_shapes(config) if name.startswith(last)]
    message = refusal(checkpoint(config, **dict.fromkeys(gone)), None if config is WAN_S2V_14B else config.to_dict())
    assert f"{len(gone)} missing: {gone[0]}" in message


def test_unexpected_and_misshaped_names():
    changes = {"blocks.0.extra.weight": (1, 2), "head.head.bias": (3,)}
    message = refusal(checkpoint(DEMO, **changes), DEMO.to_dict())
    assert "1 unexpected: blocks.0.extra.weight" in message
    assert "1 of another shape: head.head.bias is [3], not [64]" in message
    assert "missing" not in message


@pytest.mark.parametrize("name", ["time_embedding.0.weight", "cond_encoder.weight"])
def test_a_tensor_that_sizes_come_from_is_missing(name):
    assert f"1 missing: {name}" in refusal(checkpoint(DEMO, **{name: None}), DEMO.to_dict())


def test_config_of_another_model():
    message = refusal(checkpoint(DEMO), WAN_S2V_14B.to_dict())
    assert "dim is 5120 in the config and 128 in the weights" in message
    assert "do not belong together" in message
    message = refusal(checkpoint(DEMO), {**DEMO.to_dict(), "freq_dim": 512, "ffn_dim": 13824})
    assert "ffn_dim is 13824 in the config and 256 in the weights; freq_dim is 512 in the config and 256" in message
    message = refusal(checkpoint(DEMO), {**DEMO.to_dict(), "audio_inject_layers": [0, 1, 2]})
    assert "12 missing: audio_injector.injector.2." in message


def test_config_of_an_unsupported_variant():
    assert "adain_mode is 'other'" in refusal(checkpoint(DEMO), {**DEMO.to_dict(), "adain_mode": "other"})


@pytest.mark.parametrize("config", ["{", "[]", '{"transformer": 3}'])
def test_damaged_header_config(config):
    assert "the config in its header is not" in refusal(checkpoint(DEMO, {"config": config}))


WAN = ["head.modulation", "head.head.weight", "patch_embedding.weight", "blocks.0.self_attn.q.weight"]


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["base_model.model.blocks.0.self_attn.q.lora_A.default.weight"], "a LoRA"),
        (["lora_unet_blocks_0_self_attn_q.lora_down.weight", "lora_unet_blocks_0_self_attn_q.alpha"], "a LoRA"),
        (["encoder.conv1.weight", "decoder.middle.0.residual.0.gamma"], "the Wan 2.1 VAE"),
        (["decoder.middle.0.residual.0.gamma", "decoder.upsamples.0.upsamples.0.residual.2.weight"], "the Wan 2.2 VAE"),
        (["shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"], "a T5 text encoder"),
        (["token_embedding.weight", "blocks.0.attn.q.weight"], "a T5 text encoder"),
        (["wav2vec2.feature_extractor.conv_layers.0.conv.weight"], "a wav2vec2 audio encoder"),
        (WAN, "another Wan model"),
        ([*WAN, "img_emb.proj.0.bias"], "Wan image-to-video"),
        ([*WAN, "vace_patch_embedding.weight"], "Wan VACE"),
        (["input_blocks.0.0.weight", "out.2.weight"], "a Stable Diffusion UNet"),
        (["double_blocks.0.img_attn.qkv.weight"], "Flux"),
        (["one.weight", "two.weight"], "an unknown model of 2 tensors (one.weight, two.weight)"),
        ([], "an empty file"),
    ],
)
def test_other_models_are_named_with_the_right_file(names, what):
    file = Checkpoint(Path("somewhere.safetensors"), {name: torch.empty(1, device="meta") for name in names})
    message = refusal(file)
    assert f"it looks like {what}" in message
    assert "wan2.2_s2v_14B_bf16.safetensors" in message


def test_long_lists_of_unknown_names_are_cut():
    text = describe_contents([f"layer{n}" for n in range(9)])
    assert "9 tensors" in text
    assert "layer4, ..." in text
    assert "layer5" not in text


def test_config_beside(tmp_path):
    assert config_beside(tmp_path) is None
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t2v"}))
    assert config_beside(tmp_path) is None
    (tmp_path / "config.json").write_text(json.dumps(DEMO.to_dict()))
    assert AvatarConfig.from_dict(config_beside(tmp_path) or {}) == DEMO
    assert config_beside(tmp_path / "model.safetensors") == config_beside(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        config_beside(tmp_path)


@pytest.mark.parametrize("gone", ["head.modulation", "frame_packer.proj.weight"])
def test_a_part_that_tells_the_architecture_is_missing(gone):
    message = refusal(checkpoint(DEMO, **{gone: None}), DEMO.to_dict())
    assert f"is incomplete: 1 missing: {gone}. A Live Avatar model is" in message
