"""The small decoders taew2_1 and lighttaew2_1 as a stream, against ComfyUI's own decoding of the whole."""

import importlib

import pytest
import torch
from tiny_vae_file import tiny_vae_weights

from liveavatar_runtime.errors import CheckpointError
from liveavatar_runtime.vae.checkpoint import load_wan_vae
from liveavatar_runtime.vae.config import from_model_space
from liveavatar_runtime.vae.online_decoder import TinyOnlineDecoder
from liveavatar_runtime.vae.tiny import PlacedTinyDecoder, TinyState, load_tiny_decoder

CUTS = ((0, 1), (1, 4), (4, 7), (7, 10), (10, 13))


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return tiny_vae_weights()


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    """[13, 16, 8, 6], frame by frame."""
    return torch.randn(13, 16, 8, 6, generator=torch.Generator().manual_seed(3))


def decoded(tiny, latents: torch.Tensor, cuts) -> torch.Tensor:
    state = TinyState()
    return torch.cat([tiny.decode_stream(latents[first:end], state) for first, end in cuts])


def test_a_stream_equals_the_whole_by_comfyui(comfy, weights, latents):
    from comfy.taesd.taehv import TAEHV

    theirs = TAEHV(16)
    theirs.load_state_dict(weights)
    with torch.no_grad():
        whole = theirs.decode(latents.transpose(0, 1)[None])[0].transpose(0, 1)
    frames = decoded(load_tiny_decoder(weights), latents, CUTS)
    # Of the first latent frame ComfyUI leaves out the three frames before it.
    assert frames.shape[0] == 52 and whole.shape[0] == 49
    torch.testing.assert_close(frames[3:], whole, rtol=1e-5, atol=1e-5)


def test_the_past_that_a_block_needs_is_enough_and_not_too_much(weights, latents):
    tiny = load_tiny_decoder(weights)
    whole = decoded(tiny, latents, CUTS)[-12:]
    first = 10 - tiny.past_latents
    torch.testing.assert_close(decoded(tiny, latents, ((first, 10), (10, 13)))[-12:], whole, rtol=1e-5, atol=1e-5)
    assert (decoded(tiny, latents, ((first + 1, 10), (10, 13)))[-12:] - whole).abs().max() > 1e-3


@pytest.mark.parametrize(("dtype", "normalised"), [(torch.float16, True), (torch.float32, False)])
def test_what_comfyui_loads_decodes_blocks_of_the_right_latents(pack, weights, latents, dtype, normalised):
    import comfy.sd

    bridge = importlib.import_module(f"{pack.__name__}.comfy_bridge.decoder_choice")
    in_file = {name: weight.to(dtype) for name, weight in weights.items()}
    vae = comfy.sd.VAE(sd=dict(in_file))
    managed = bridge.managed_decoder(vae)
    assert managed is bridge.managed_decoder(vae) and "small decoder" in managed.told
    assert managed.patcher.model.normalised is normalised
    blocks = latents.transpose(0, 1)
    decoder = managed.decoder(blocks[:, :8], None, lambda done, total: None)
    pixels = decoder.decode(blocks[:, 8:11])
    assert pixels.shape == (3, 12, 64, 48) and pixels.dtype == torch.float32 and pixels.abs().max() <= 1
    given = latents if normalised else from_model_space(blocks).transpose(0, 1)
    expected = decoded(load_tiny_decoder(in_file, managed.dtype), given.to(managed.dtype), ((0, 8), (8, 11)))[-12:]
    wanted = (expected.transpose(0, 1).float() * 2 - 1).clamp(-1, 1)
    torch.testing.assert_close(pixels, wanted, rtol=0, atol=1e-5 if managed.dtype == torch.float32 else 2e-2)


def test_a_video_begins_as_with_the_whole_vae(weights, latents):
    tiny = PlacedTinyDecoder(load_tiny_decoder(weights), torch.device("cpu"), torch.float32)
    blocks = latents.transpose(0, 1)
    held, trimmed = (
        TinyOnlineDecoder(tiny, blocks[:, :8], start).decode(blocks[:, 8:11]) for start in ("hold", "trim")
    )
    assert held.shape[1] == 12 and torch.equal(held[:, 3:], trimmed)
    assert all(torch.equal(held[:, frame], held[:, 3]) for frame in range(3))


def test_what_is_no_decoder_of_these_latents_is_refused(weights):
    other = {**weights, "decoder.1.weight": torch.zeros(256, 48, 3, 3)}
    with pytest.raises(CheckpointError, match="for 48 latent channels, and the model's latents have 16"):
        load_tiny_decoder(other)
    with pytest.raises(CheckpointError, match=r"not a complete small decoder.*decoder\.4\.conv\.0\.weight"):
        load_tiny_decoder({name: weight for name, weight in weights.items() if name != "decoder.4.conv.0.weight"})


def test_it_cannot_encode_the_picture(weights):
    with pytest.raises(CheckpointError, match="only decodes: connect it to Online VAE Decode"):
        load_wan_vae(weights)
