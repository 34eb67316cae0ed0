"""Our VAE against comfy.ldm.wan.vae.WanVAE and comfy.sd.VAE with the same weights."""

import pytest
import torch

from liveavatar_runtime.vae import WAN_2_1, VaeConfig, WanVAE, from_model_space, load_wan_vae, to_model_space

CONFIG = VaeConfig(dim=8, num_res_blocks=2)
ATOL = 1e-5


def make_comfy_vae(config: VaeConfig):
    from comfy.ldm.wan.vae import WanVAE as ComfyWanVAE

    return ComfyWanVAE(
        dim=config.dim,
        z_dim=config.z_dim,
        dim_mult=list(config.dim_mult),
        num_res_blocks=config.num_res_blocks,
        temperal_downsample=list(config.temporal_downsample),
    )


@pytest.fixture(scope="module")
def ours(comfy) -> WanVAE:
    torch.set_num_threads(1)
    torch.manual_seed(11)
    vae = WanVAE(CONFIG)
    for parameter in vae.parameters():
        if parameter.ndim <= 1 or parameter.shape[1:].numel() == 1:  # biases and gammas: away from their neutral values
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    return vae.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def theirs(ours):
    vae = make_comfy_vae(CONFIG)
    vae.load_state_dict(ours.state_dict(), strict=True)
    return vae.eval().requires_grad_(False)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return (a - b).abs().max().item()


def test_released_architecture_has_the_same_names_and_shapes(comfy):
    with torch.device("meta"):
        theirs = make_comfy_vae(WAN_2_1).state_dict()
    ours = WanVAE(WAN_2_1, device="meta").state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize("frames", [1, 5, 9, 17])
def test_encode(ours, theirs, frames):
    pixels = torch.rand(1, 3, frames, 40, 24, generator=torch.Generator().manual_seed(frames)) * 2 - 1
    assert difference(ours.encode(pixels), theirs.encode(pixels)) <= ATOL


@pytest.mark.parametrize("latent_frames", [1, 2, 3, 6])
def test_decode(ours, theirs, latent_frames):
    latents = torch.randn(1, 16, latent_frames, 5, 3, generator=torch.Generator().manual_seed(latent_frames))
    assert difference(ours.decode(latents), theirs.decode(latents)) <= ATOL


def test_batch(ours, theirs):
    latents = torch.randn(2, 16, 3, 2, 4, generator=torch.Generator().manual_seed(5))
    assert difference(ours.decode(latents), theirs.decode(latents)) <= ATOL


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_at_least_as_exact(ours, dtype):
    half_theirs = make_comfy_vae(CONFIG)
    half_theirs.load_state_dict(ours.state_dict(), strict=True)
    half_theirs.to(dtype).requires_grad_(False)
    half_ours = load_wan_vae(ours.state_dict(), dtype=dtype)
    latents = torch.randn(1, 16, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    exact = ours.decode(latents)
    error_ours = (half_ours.decode(latents) - exact).square().mean()
    error_theirs = (half_theirs.decode(latents.to(dtype)).float() - exact).square().mean()
    assert error_ours <= error_theirs


def test_weights_of_a_loaded_comfy_vae(ours):
    """VAELoader's object -> get_sd() -> ours: the same tensors, the same pictures."""
    import comfy.sd

    loaded = comfy.sd.VAE(sd={name: value.clone() for name, value in ours.state_dict().items()})
    weights = loaded.get_sd()
    vae = load_wan_vae(weights)
    assert vae.config == CONFIG
    assert all(value.data_ptr() == weights[name].data_ptr() for name, value in vae.state_dict().items())

    pixels = torch.rand(9, 32, 48, 3, generator=torch.Generator().manual_seed(3))
    raw = vae.encode(pixels.permute(3, 0, 1, 2)[None] * 2 - 1)
    assert difference(raw, loaded.encode(pixels)) <= ATOL
    shown = (vae.decode(raw).clamp(-1, 1) + 1) / 2
    assert difference(shown.permute(0, 2, 3, 4, 1), loaded.decode(raw)) <= ATOL


def test_comfy_operations_build_the_same_model(ours):
    import comfy.ops

    vae = load_wan_vae(ours.state_dict(), operations=comfy.ops.manual_cast)
    latents = torch.randn(1, 16, 2, 3, 3, generator=torch.Generator().manual_seed(8))
    # Their convolution is another kernel than ours on the CPU.
    assert difference(vae.decode(latents), ours.decode(latents)) <= ATOL


def test_latent_spaces(comfy):
    import comfy.latent_formats

    core = comfy.latent_formats.Wan21()
    latents = torch.randn(1, 16, 2, 3, 3, generator=torch.Generator().manual_seed(9)) * 3
    assert difference(to_model_space(latents), core.process_in(latents)) <= 1e-6
    assert difference(from_model_space(latents), core.process_out(latents)) <= 2e-6
