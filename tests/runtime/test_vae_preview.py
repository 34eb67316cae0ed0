"""The colours of a preview belong to the VAE whose latents they show."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from liveavatar_runtime.media.images import fit_picture
from liveavatar_runtime.vae import load_wan_vae, settled_latent, to_model_space
from liveavatar_runtime.vae.preview import preview_factors

DEMO = Path(__file__).parents[2] / "demo"
OTHERS = torch.randn(17, 3, generator=torch.Generator().manual_seed(3)) * 0.1
"""Factors of some other VAE."""


@pytest.fixture(scope="module")
def vae():
    torch.set_num_threads(1)
    return load_wan_vae(load_file(DEMO / "liveavatar-demo" / "Wan2.1_VAE.safetensors"))


def colours(factors: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """[16, 1, h, w] -> [3, h, w]."""
    flat = latents[:, 0].flatten(1).T
    return (flat @ factors[:-1] + factors[-1]).T.unflatten(1, latents.shape[2:])


def test_the_demo_vae_shows_the_portrait_in_its_colours(vae):
    from PIL import Image

    picture = torch.frombuffer(bytearray(Image.open(DEMO / "portrait.png").convert("RGB").tobytes()), dtype=torch.uint8)
    side = round((len(picture) / 3) ** 0.5)
    fitted = fit_picture(picture.view(side, side, 3) / 255, 64, 64)
    latents, wanted = to_model_space(settled_latent(vae, fitted)), F.avg_pool2d(fitted, 8)
    spread = (wanted - wanted.mean((1, 2), keepdim=True)).square().mean()
    own = (colours(preview_factors(vae, OTHERS), latents) - wanted).square().mean()
    foreign = (colours(OTHERS, latents) - wanted).square().mean()
    assert own < 0.4 * spread < foreign


def test_published_factors_stay_where_they_fit(vae):
    """As the released VAE's do: here those of the demo VAE, a little off, stand for published ones."""
    own = preview_factors(vae, OTHERS)
    published = own * 1.05
    assert torch.equal(preview_factors(vae, published), published)
    assert torch.equal(preview_factors(vae, OTHERS), own), "the same again"
