"""Rotary positions: one result whatever form computes it, and tables that are those of each position."""

import pytest
import torch

from liveavatar_runtime.dit.rope import (
    RopeFactors,
    RopeTables,
    apply_rope,
    apply_rope_into,
    axis_pairs,
    block_rope,
    reference_rope,
    temporal_channels,
    turn,
    turns_complex,
)

CPU = torch.device("cpu")
GRID = (4, 3)


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def forms(factors: RopeFactors) -> tuple[RopeFactors, RopeFactors]:
    """Of real numbers, and of complex ones."""
    return RopeFactors(factors.cos, factors.sin), RopeFactors(
        factors.cos, factors.sin, torch.complex(factors.cos, factors.sin)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_dim", [12, 16, 64, 96, 128])
def test_a_processor_gets_the_same_bits_as_real_and_as_complex_numbers(head_dim, dtype):
    """Where complex numbers are chosen; elsewhere both are a rounding apart, which another device may be."""
    factors = block_rope(head_dim, GRID, 1000, 3)
    assert (factors.turns is not None) == turns_complex(CPU, head_dim // 2)
    x = draw(2, 36, 3, head_dim, dtype=dtype)
    real, complex_form = (apply_rope(x, form) for form in forms(factors))
    assert torch.equal(apply_rope(x, factors), real)
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(complex_form, real, atol=4 * step, rtol=step)
    target = torch.empty_like(x)
    apply_rope_into(target, x, factors)
    assert torch.equal(target, real)


def test_who_turns_complex_numbers():
    assert turns_complex(torch.device("cuda"), 22) and turns_complex(torch.device("cuda"), 64)
    assert not any(turns_complex(torch.device(kind), 64) for kind in ("mps", "xpu", "privateuseone"))
    # Of 22 numbers a processor multiplies 6 one by one, with another rounding.
    assert not turns_complex(CPU, 22)


@pytest.mark.parametrize("start", [0, 17, RopeTables.PAGE - 1, RopeTables.PAGE, 5 * RopeTables.PAGE - 2])
def test_tables_hold_the_factors_of_every_frame(start):
    tables = RopeTables(128, GRID, CPU)
    found, expected = tables.block(start, 3), block_rope(128, GRID, start, 3)
    assert torch.equal(found.cos, expected.cos) and torch.equal(found.sin, expected.sin)
    pairs = axis_pairs(128)[0]
    assert torch.equal(tables.frame(start).cos.expand(12, -1, -1), expected.cos[:12, :, :pairs])


def test_a_frame_is_in_the_table_before_it_is_reached():
    """Evaluations look frames up; angles are computed once in PAGE frames."""
    tables = RopeTables(16, GRID, CPU)
    tables.block(0, 3)
    for start in range(3, RopeTables.PAGE, 3):
        tables.block(start, 3)
    assert len(tables._pages) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_turning_the_temporal_channels_is_turning_all(dtype):
    """A reference picture whose rows and columns are turned already, and whose frame moves: the same bits."""
    keys, channels = draw(1, 12, 2, 128, dtype=dtype), temporal_channels(128)
    there = apply_rope(keys, reference_rope(128, GRID, 30))
    expected = apply_rope(keys, reference_rope(128, GRID, 77))
    there[..., :channels] = turn(keys[..., :channels], RopeTables(128, GRID, CPU).frame(77)).to(dtype)
    if turns_complex(CPU, 64):
        assert torch.equal(there, expected)
    else:
        torch.testing.assert_close(there, expected)
