"""The VAE as cards compute it, with the channels last in memory, on a processor in bf16."""

import pytest
import torch
from torch import nn

from liveavatar_runtime.vae import DecodeState, EncodeState, VaeConfig, WanVAE, layout, settled_latent

CONFIG = VaeConfig(dim=8, num_res_blocks=1)


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make() -> WanVAE:
    torch.manual_seed(4)
    return WanVAE(CONFIG, dtype=torch.bfloat16).eval().requires_grad_(False)


@pytest.fixture
def vae(monkeypatch) -> WanVAE:
    """On a processor that is taken for a card."""
    monkeypatch.setattr(layout, "FUSED_FORMS", ("cpu",))
    return make()


@pytest.fixture(autouse=True)
def no_training():
    with torch.inference_mode():
        yield


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_it_rounds_as_the_plain_layout_does(vae, monkeypatch):
    """Or twice as much: between norm and SiLU it rounds once more."""
    latents, pixels = draw(2, 16, 2, 3, 2), draw(2, 3, 5, 24, 16)
    found = vae.decode(latents), vae.encode(pixels), settled_latent(vae, pixels[0, :, 0])
    monkeypatch.undo()
    plain, exact = make(), make().float()
    for computed, *others in zip(found, *(_all(v, latents, pixels) for v in (plain, exact)), strict=True):
        rounding = relative(others[0], others[1])
        assert 0 < relative(computed, others[1]) <= 2 * rounding


def _all(vae: WanVAE, latents: torch.Tensor, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return vae.decode(latents), vae.encode(pixels), settled_latent(vae, pixels[0, :, 0])


def test_no_convolution_has_to_convert(vae):
    """PyTorch's own test of the strides is stricter than `is_contiguous`: those of sizes of 1 count."""
    seen = []

    def look(module: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        x = given[0]
        last = torch.channels_last_3d if x.ndim == 5 else torch.channels_last
        expected = torch.empty(x.shape, device="meta", memory_format=last)
        assert isinstance(module.weight, torch.Tensor)
        kept = module.weight.is_contiguous(memory_format=last)
        seen.append((tuple(x.shape), x.stride(), expected.stride(), kept))

    def lie_as_given(module: nn.Module, given: tuple[torch.Tensor, ...], y: torch.Tensor) -> torch.Tensor:
        """As cards do, and processors that compute in bf16; others put planes side by side."""
        return y.contiguous(memory_format=layout.memory_format(given[0]))

    for module in vae.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            module.register_forward_pre_hook(look)
            module.register_forward_hook(lie_as_given)
    vae.decode(draw(1, 16, 2, 3, 2))
    assert len(seen) > 50
    assert [one for one in seen if one[1] != one[2] or not one[3]] == []


def test_streams_and_their_snapshots_give_the_same_bits(vae, monkeypatch):
    latents, state = draw(1, 16, 3, 3, 2), DecodeState()
    whole = vae.decode(latents)
    first = vae.decode_stream(latents[:, :, :2], state)
    saved = {name: tensor.clone() for name, tensor in state.tensors().items()}
    assert all(tensor.is_contiguous() for tensor in saved.values())
    assert torch.equal(torch.cat([first, vae.decode_stream(latents[:, :, 2:], state)], dim=2), whole)
    rest = whole[:, :, first.shape[2] :]
    assert torch.equal(vae.decode_stream(latents[:, :, 2:], DecodeState.from_tensors(saved)), rest)
    # A processor that is none of a card goes on from it, within its rounding.
    monkeypatch.undo()
    assert relative(make().decode_stream(latents[:, :, 2:], DecodeState.from_tensors(saved)), rest) < 0.05


def test_a_state_holds_no_more_than_its_frames(vae):
    state = EncodeState()
    vae.encode_stream(draw(1, 3, 5, 16, 16), state)
    assert all(cache.untyped_storage().nbytes() == cache.nbytes for cache in state.caches.values())
