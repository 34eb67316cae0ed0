"""Modulation, gates and residuals: what a card computes in one kernel is what the steps give, but for a rounding."""

import pytest
import torch

from liveavatar_runtime.dit import elementwise
from liveavatar_runtime.dit.elementwise import add_gated, add_to, modulate, modulate_in_dtype, modulation_parts

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.fixture
def one_kernel(monkeypatch):
    """A processor is taken for a card, inside of which nothing is trained."""
    monkeypatch.setattr(elementwise, "FUSED_FORMS", ("cpu",))
    with torch.no_grad():
        yield


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kept", [torch.float32, None], ids=["float32", "rounded"])
def test_one_kernel_gives_what_the_steps_give(one_kernel, dtype, kept):
    rounded = kept or dtype
    hidden, x = draw(2, 5, 24, dtype=rounded), draw(2, 5, 24, dtype=dtype)
    shift, scale = draw(2, 1, 24), draw(1, 1, 24)
    exact = hidden.double() + x.double() * scale.double()
    found = add_gated(hidden, x, scale, rounded)
    assert found.dtype == rounded
    step = torch.finfo(rounded).eps
    torch.testing.assert_close(found.double(), exact, atol=4 * step, rtol=step)
    found = modulate(x, shift, scale, rounded)
    assert found.dtype == rounded
    torch.testing.assert_close(found.double(), x.double() * scale.double() + shift.double(), atol=4 * step, rtol=step)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_voice_is_modulated_in_its_dtype(one_kernel, dtype):
    x, shift, scale = (draw(2, n, 8, dtype=dtype) for n in (3, 1, 1))
    step = torch.finfo(dtype).eps
    exact = x.double() * scale.double() + shift.double()
    torch.testing.assert_close(modulate_in_dtype(x, shift, scale).double(), exact, atol=4 * step, rtol=step)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_processor_rounds_step_by_step(dtype):
    hidden, x, gate = draw(1, 5, 24), draw(1, 5, 24, dtype=dtype), draw(1, 1, 24)
    with torch.no_grad():
        assert torch.equal(add_gated(hidden, x, gate, dtype), (hidden + x * gate).to(dtype))
        assert torch.equal(modulate(x, gate, gate, dtype), (x.float() * gate + gate).to(dtype))
        kept = hidden.clone()
        assert torch.equal(add_to(kept, x), hidden + x) and torch.equal(kept, hidden + x)


def test_gradients_pass():
    hidden, x, gate = (draw(1, n, 8).requires_grad_() for n in (3, 3, 1))
    own, time = draw(1, 6, 8).requires_grad_(), draw(2, 6, 8)
    parts = modulation_parts(own, time)
    (add_to(add_gated(hidden, x, gate, torch.float32), x).sum() + torch.cat(parts).sum()).backward()
    assert all(tensor.grad is not None for tensor in (hidden, x, gate, own))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float8_e4m3fn])
def test_the_scales_are_those_to_multiply_by(dtype):
    own, time = draw(1, 6, 8).to(dtype), draw(2, 6, 8)
    expected = list((own.float() + time).split(1, dim=1))
    expected[1], expected[4] = 1 + expected[1], 1 + expected[4]
    with torch.no_grad():
        found = modulation_parts(own, time)
    assert all(map(torch.equal, found, expected)) and all(map(torch.equal, modulation_parts(own, time), expected))
