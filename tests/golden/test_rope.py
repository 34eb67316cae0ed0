"""RoPE factors and rotation against the original."""

import pytest
import torch

from liveavatar_runtime.dit.rope import (
    REFERENCE_FRAME,
    RopeFactors,
    apply_rope,
    axis_pairs,
    block_rope,
    join_factors,
    motion_rope,
    reference_rope,
)

TOLERANCE = {"atol": 1e-5, "rtol": 0}


def grid_of(groups: list[dict[str, list[int]]]) -> tuple[int, int]:
    return len(groups[0]["h"]), len(groups[0]["w"])


def check(ours: RopeFactors, tensors: dict[str, torch.Tensor], name: str) -> None:
    torch.testing.assert_close(ours.cos[:, 0], tensors[f"{name}.real"], **TOLERANCE)
    torch.testing.assert_close(ours.sin[:, 0], tensors[f"{name}.imag"], **TOLERANCE)


def test_head_is_split_as_in_the_original(golden):
    about = golden.about("rope.safetensors")
    assert list(axis_pairs(about["head_dim"])) == about["split_complex_dims"]
    assert [2 * pairs for pairs in axis_pairs(128)] == [44, 42, 42]


@pytest.mark.parametrize("kind", ["noisy.", "d128."])
def test_noisy_blocks(golden, kind):
    tensors, indices = golden.tensors("rope.safetensors"), golden.json("rope_indices.json")
    head_dim = 128 if kind == "d128." else golden.about("rope.safetensors")["head_dim"]
    names = [name for name in indices if name.startswith(kind)]
    assert names
    for name in names:
        frames = indices[name][0]["f"]
        check(block_rope(head_dim, grid_of(indices[name]), frames[0], len(frames)), tensors, name)


def test_sink_moves_only_the_reference(golden):
    tensors, indices = golden.tensors("rope.safetensors"), golden.json("rope_indices.json")
    head_dim = golden.about("rope.safetensors")["head_dim"]
    names = [name for name in indices if name.startswith("sink.shift")]
    assert names
    for name in names:
        shift, grid = int(name.removeprefix("sink.shift")), grid_of(indices[name])
        ours = join_factors(reference_rope(head_dim, grid, REFERENCE_FRAME + shift), motion_rope(head_dim, grid))
        check(ours, tensors, name)


@pytest.mark.parametrize("part", ["post", "2x", "4x"])
def test_packed_motion(golden, part):
    tensors, indices = golden.tensors("rope.safetensors"), golden.json("rope_indices.json")
    head_dim = golden.about("rope.safetensors")["head_dim"]
    grid = grid_of(indices["framepack.post"])
    sizes = [len(tensors[f"framepack.{name}.real"]) for name in ("post", "2x", "4x")]
    ours = dict(zip(("post", "2x", "4x"), motion_rope(head_dim, grid).cos[:, 0].split(sizes), strict=True))
    torch.testing.assert_close(ours[part], tensors[f"framepack.{part}.real"], **TOLERANCE)


def test_motion_positions_at_production_sizes(golden):
    indices = golden.json("rope_indices.json")
    names = [name for name in indices if name.startswith("framepack_indices.latent_")]
    assert names
    for name in names:
        grid = grid_of(indices[name])
        expected = join_factors(*(_from_lists(128, group) for group in indices[name]))
        ours = motion_rope(128, grid)
        assert torch.equal(ours.cos, expected.cos) and torch.equal(ours.sin, expected.sin)


def _from_lists(head_dim: int, group: dict[str, list[int]]) -> RopeFactors:
    from liveavatar_runtime.dit.rope import rope_factors

    return rope_factors(head_dim, [-f for f in group["f"]], group["h"], group["w"])


def test_rotation(golden):
    tensors, indices = golden.tensors("rope.safetensors"), golden.json("rope_indices.json")
    head_dim = golden.about("rope.safetensors")["head_dim"]
    rotated = [name for name in tensors if name.startswith("q_rotated.")]
    assert rotated
    for name in rotated:
        group = indices[f"noisy.{name.removeprefix('q_rotated.')}"]
        factors = block_rope(head_dim, grid_of(group), group[0]["f"][0], len(group[0]["f"]))
        torch.testing.assert_close(apply_rope(tensors["q"], factors), tensors[name], **TOLERANCE)
    for name in (n for n in tensors if n.startswith("k_cond_rotated.shift")):
        shift = int(name.removeprefix("k_cond_rotated.shift"))
        grid = grid_of(indices[f"sink.shift{shift}"])
        factors = join_factors(reference_rope(head_dim, grid, REFERENCE_FRAME + shift), motion_rope(head_dim, grid))
        torch.testing.assert_close(apply_rope(tensors["k_cond"], factors), tensors[name], **TOLERANCE)
