"""Our transformer's parts against ComfyUI's WanModel_S2V with the same weights, where both define the same thing."""

import pytest
import torch

from liveavatar_runtime.config import AvatarConfig
from liveavatar_runtime.dit.attention import sdpa
from liveavatar_runtime.dit.audio import InjectionLayer, encode_audio, inject_audio, prepare_injection
from liveavatar_runtime.dit.frame_packer import pack_motion
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.dit.rope import (
    REFERENCE_FRAME,
    RopeFactors,
    apply_rope,
    block_rope,
    motion_rope,
    reference_rope,
)

CONFIG = AvatarConfig(
    dim=256, ffn_dim=512, num_heads=2, num_layers=2, audio_inject_layers=(0, 1), audio_dim=32, text_dim=64
)
GRID = (8, 4)
TOLERANCE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module")
def ours() -> CausalWanS2V:
    torch.manual_seed(7)
    model = CausalWanS2V(CONFIG)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def theirs(comfy, ours):
    import comfy.ops
    from comfy.ldm.wan.model import WanModel_S2V

    values = {**CONFIG.to_dict(), "patch_size": CONFIG.patch_size}
    known = ("dim", "ffn_dim", "num_heads", "num_layers", "audio_inject_layers", "audio_dim", "text_dim", "text_len")
    sizes = {name: values[name] for name in known}
    model = WanModel_S2V(**sizes, operations=comfy.ops.disable_weight_init, dtype=torch.float32, device="cpu")
    model.load_state_dict(ours.state_dict(), strict=True)
    return model.eval().requires_grad_(False)


def check_rope(factors: RopeFactors, matrices: torch.Tensor) -> None:
    """ComfyUI keeps [1, tokens, 1, pairs, 2, 2] rotation matrices (cos, -sin; sin, cos)."""
    torch.testing.assert_close(factors.cos, matrices[0, ..., 0, 0], **TOLERANCE)
    torch.testing.assert_close(factors.sin, matrices[0, ..., 1, 0], **TOLERANCE)


def rope_of(theirs, start: int, frames: int) -> torch.Tensor:
    height, width = 2 * GRID[0], 2 * GRID[1]
    return theirs.rope_encode(frames, height, width, t_start=start, device="cpu", dtype=torch.float32)


def test_rope_of_blocks_and_reference(theirs):
    head_dim = CONFIG.head_dim
    for start in (0, 3, 45, 1002):
        check_rope(block_rope(head_dim, GRID, start, 3), rope_of(theirs, start, 3))
    check_rope(reference_rope(head_dim, GRID, REFERENCE_FRAME), rope_of(theirs, REFERENCE_FRAME, 1))


def test_rope_of_the_newest_motion_frame(theirs):
    """Half and quarter resolution are left out: ComfyUI puts those tokens at fractional positions."""
    tokens = GRID[0] * GRID[1]
    factors = motion_rope(CONFIG.head_dim, GRID)
    check_rope(RopeFactors(factors.cos[:tokens], factors.sin[:tokens]), rope_of(theirs, -1, 1))


def test_rotation(theirs):
    from comfy.ldm.flux.math import apply_rope1

    x = torch.randn(1, 3 * GRID[0] * GRID[1], CONFIG.num_heads, CONFIG.head_dim)
    rotated = apply_rope1(x, rope_of(theirs, 12, 3))
    torch.testing.assert_close(apply_rope(x, block_rope(CONFIG.head_dim, GRID, 12, 3)), rotated, **TOLERANCE)


def test_audio_encoder(ours, theirs):
    features = torch.randn(2, CONFIG.audio_layers, CONFIG.audio_dim, 24)
    glob, local = theirs.casual_audio_encoder(features)
    tokens = encode_audio(ours.casual_audio_encoder, features, CONFIG.num_audio_token)
    torch.testing.assert_close(tokens.glob, glob, **TOLERANCE)
    torch.testing.assert_close(tokens.local, local, **TOLERANCE)


@pytest.mark.parametrize("layer", CONFIG.audio_inject_layers)
def test_audio_injection(ours, theirs, layer):
    frames = 3
    hidden = torch.randn(1, frames * GRID[0] * GRID[1], CONFIG.dim)
    tokens = encode_audio(
        ours.casual_audio_encoder, torch.randn(1, CONFIG.audio_layers, CONFIG.audio_dim, 12), CONFIG.num_audio_token
    )
    expected = theirs.audio_injector(hidden.clone(), layer, tokens.local, tokens.glob, hidden.shape[1])
    index = CONFIG.audio_inject_layers.index(layer)
    injection = prepare_injection(ours.audio_injector, index, tokens, CONFIG.head_dim)
    injected = InjectionLayer(ours.audio_injector, index, CONFIG.head_dim, sdpa)
    result = inject_audio(injected, hidden, injection, frames, None)
    torch.testing.assert_close(result, expected, **TOLERANCE)


@pytest.mark.parametrize("frames", [5, 19, 24])
def test_frame_packer(ours, theirs, frames):
    motion = torch.randn(1, 16, frames, 2 * GRID[0], 2 * GRID[1])
    expected, _ = theirs.frame_packer(motion, theirs)
    torch.testing.assert_close(pack_motion(ours.frame_packer, motion), expected, **TOLERANCE)
