"""Single modules of the transformer against the original: norms, audio encoder, frame packer, embeddings."""

import json
import re

import pytest
import torch
import torch.nn.functional as F

from liveavatar_runtime.config import WAN_S2V_14B, AvatarConfig
from liveavatar_runtime.dit.audio import encode_audio, encode_block_audio, mix_layers
from liveavatar_runtime.dit.frame_packer import pack_motion, packed_token_count
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.dit.rope import motion_rope
from liveavatar_runtime.reading import read_json

TOLERANCE = {"atol": 1e-5, "rtol": 0}


def test_14b_has_exactly_the_originals_tensors(golden):
    expected: dict[str, tuple[int, ...]] = {}
    for name, shape in golden.json("keys_14b.json").items():
        span = re.search(r"\{(\d+)\.\.(\d+)\}", name)
        names = [name]
        if span:
            names = [name.replace(span[0], str(n)) for n in range(int(span[1]), int(span[2]) + 1)]
        expected.update(dict.fromkeys(names, tuple(shape)))
    model = CausalWanS2V(WAN_S2V_14B, device="meta")
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == expected


def test_config_round_trip(golden, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(golden.manifest["dit_config"]))
    config = AvatarConfig.from_dict(read_json(path))
    path.write_text(json.dumps(config.to_dict()))
    assert AvatarConfig.from_dict(read_json(path)) == config


def test_norms_with_tiny_inputs(golden, golden_dit):
    stored = golden.tensors("norm_eps.safetensors")
    names = [name for name in stored if name not in ("x", "x_quarter", "temb")]
    assert names
    for name in names:
        module = golden_dit.get_submodule(name)
        x = stored["x_quarter"] if stored[name].shape[-1] == stored["x_quarter"].shape[-1] else stored["x"]
        if "adain" in name:
            shift, scale = module.linear(F.silu(stored["temb"])).unsqueeze(1).chunk(2, dim=-1)
            ours = module.norm(x) * (1 + scale) + shift
        else:
            ours = module(x)
        torch.testing.assert_close(ours, stored[name], **TOLERANCE)


def test_audio_encoder(golden, golden_dit):
    stored, config = golden.tensors("audio_encoder.safetensors"), golden.config
    encoder = golden_dit.casual_audio_encoder
    torch.testing.assert_close(mix_layers(encoder, stored["features"]), stored["weighted_features"], **TOLERANCE)
    tokens = encode_audio(encoder, stored["features"], config.num_audio_token)
    torch.testing.assert_close(tokens.local, stored["local"], **TOLERANCE)
    torch.testing.assert_close(tokens.glob, stored["global_"], **TOLERANCE)


def test_block_audio_needs_one_repeated_frame_instead_of_73(golden, golden_dit):
    stored = golden.tensors("audio_encoder.safetensors")
    tokens = encode_block_audio(golden_dit.casual_audio_encoder, stored["block_audio"], golden.config.num_audio_token)
    torch.testing.assert_close(tokens.local, stored["block_local"], **TOLERANCE)
    torch.testing.assert_close(tokens.glob, stored["block_global"], **TOLERANCE)


@pytest.mark.parametrize("frames", [None, 5])
def test_frame_packer(golden, golden_dit, frames):
    stored = golden.tensors("frame_packer.safetensors")
    motion = stored["motion"][None] if frames is None else stored["motion"][None, :, -frames:]
    tokens = pack_motion(golden_dit.frame_packer, motion)
    torch.testing.assert_close(tokens, stored["tokens.full" if frames is None else f"tokens.last{frames}"], **TOLERANCE)
    grid = (motion.shape[3] // 2, motion.shape[4] // 2)
    assert tokens.shape[1] == packed_token_count(grid)
    factors = motion_rope(golden.config.head_dim, grid)
    torch.testing.assert_close(factors.cos[:, 0], stored["rope.full.real"], **TOLERANCE)
    torch.testing.assert_close(factors.sin[:, 0], stored["rope.full.imag"], **TOLERANCE)
