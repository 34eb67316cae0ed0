"""Streams, their state, still pictures and the messages for weights that are no Wan 2.1 VAE."""

from copy import deepcopy
from itertools import accumulate, pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file

from liveavatar_runtime.errors import CheckpointError, InputError, MachineError
from liveavatar_runtime.vae import (
    WAN_2_1,
    DecodeState,
    EncodeState,
    PlacedVAE,
    VaeConfig,
    WanVAE,
    encode_still,
    load_wan_vae,
    operations,
    settled_latent,
    still_chunks,
)
from liveavatar_runtime.vae.layers import Upsample
from liveavatar_runtime.vae.online_decoder import OnlineDecoder
from liveavatar_runtime.vae.state import StillHistory


def make_vae(config: VaeConfig, seed: int = 4) -> WanVAE:
    torch.manual_seed(seed)
    return WanVAE(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def vae() -> WanVAE:
    torch.set_num_threads(1)
    return make_vae(VaeConfig(dim=8, num_res_blocks=1))


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pieces(x: torch.Tensor, lengths: tuple[int, ...]) -> list[torch.Tensor]:
    assert sum(lengths) == x.shape[2]
    return [x[:, :, a:b] for a, b in pairwise([0, *accumulate(lengths)])]


@pytest.mark.parametrize("split", [(13,), (1, 12), (7, 3, 3), (3, 3, 3, 3, 1), (1,) * 13, (2, 11)], ids=str)
def test_decode_stream_is_decode_bit_for_bit(vae, split):
    latents, state = draw(1, 16, sum(split), 3, 2), DecodeState()
    streamed = [vae.decode_stream(part, state) for part in pieces(latents, split)]
    assert [video.shape[2] for video in streamed] == [4 * split[0] - 3, *(4 * count for count in split[1:])]
    assert torch.equal(torch.cat(streamed, dim=2), vae.decode(latents))
    assert state.chunks == sum(split)


@pytest.mark.parametrize("height", [8, 16])
def test_several_chunks_of_a_small_picture_are_decoded_at_once_bit_for_bit(vae, height):
    latents, asked = draw(1, 16, 8, height, 8), []
    one, several = DecodeState(), DecodeState()
    alone = [vae.decode_stream(latents[:, :, n : n + 1], one) for n in range(8)]
    with vae.decoder.register_forward_pre_hook(lambda _, given: asked.append(given[0].shape[2])):
        together = vae.decode_stream(latents, several)
    assert asked == ([1, 3, 3, 1] if height == 8 else [1] * 8), "a larger picture would take more memory"
    assert torch.equal(together, torch.cat(alone, dim=2)) and several.chunks == one.chunks == 8
    assert all(torch.equal(cache, one.caches[name]) for name, cache in several.caches.items())


@pytest.mark.parametrize("channels", [3, 8, 16])
@pytest.mark.parametrize("frames", [3, 4, 6])
def test_frames_of_few_channels_are_convolved_together_bit_for_bit(monkeypatch, channels, frames):
    monkeypatch.setattr(operations, "WORTH_ARRANGING", 0)
    conv = operations.Conv3d(8, channels, 3, padding=(0, 1, 1)).eval().requires_grad_(False)
    x, given = draw(1, 8, frames + 2, 16, 12), []
    made = operations._of_several_frames
    monkeypatch.setattr(operations, "_of_several_frames", lambda n, *others: given.append(n) or made(n, *others))
    together = conv(x)
    monkeypatch.setattr(operations, "numbers_at_once", lambda: 0)
    assert torch.equal(together, conv(x)) and together.is_contiguous()
    room = torch.backends.cpu.get_cpu_capability().startswith("AVX512") + 1
    expected = {3: {3: 1, 4: 2 * room, 6: 2}, 8: {3: 1, 4: room, 6: room}, 16: {3: 1, 4: 1, 6: 1}}[channels][frames]
    assert given == [expected] * (expected > 1)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (8, 5)], ids=str)
def test_a_doubled_picture_is_convolved_without_being_made(vae, size):
    upsample = next(layer for layer in reversed(vae.decoder.upsamples) if isinstance(layer, Upsample))
    x = draw(1, 2 * 8, 2, *size)
    with torch.inference_mode():
        found = upsample(x, StillHistory())
    history = StillHistory()
    plain = upsample(x, history)
    exact = deepcopy(upsample).double()(x.double(), history)
    assert found.shape == exact.shape
    assert (found - exact).abs().max() <= 2 * (plain - exact).abs().max() + 1e-7


@pytest.mark.parametrize("split", [(17,), (1, 16), (5, 4, 8), (1, 4, 4, 4, 4), (9, 8)], ids=str)
def test_encode_stream_is_encode_bit_for_bit(vae, split):
    pixels, state = draw(1, 3, sum(split), 24, 16), EncodeState()
    streamed = [vae.encode_stream(part, state) for part in pieces(pixels, split)]
    assert torch.equal(torch.cat(streamed, dim=2), vae.encode(pixels))


def test_a_frame_does_not_depend_on_what_follows(vae):
    latents = draw(1, 16, 5, 2, 2)
    assert torch.equal(vae.decode(latents)[:, :, :9], vae.decode(latents[:, :, :3]))


def test_snapshot_in_a_file_continues_the_video(vae, tmp_path):
    latents, state = draw(1, 16, 7, 2, 3), DecodeState()
    vae.decode_stream(latents[:, :, :4], state)
    save_file(state.tensors(), tmp_path / "state.safetensors")
    rest = vae.decode_stream(latents[:, :, 4:], state)
    restored = DecodeState.from_tensors(load_file(tmp_path / "state.safetensors"))
    assert torch.equal(vae.decode_stream(latents[:, :, 4:], restored), rest)
    assert restored.tensors().keys() == state.tensors().keys()


def test_snapshot_in_memory_is_not_changed_by_the_stream(vae):
    pixels, state = draw(1, 3, 9, 16, 16), EncodeState()
    vae.encode_stream(pixels[:, :, :5], state)
    fork = EncodeState.from_tensors(state.tensors())
    moved = state.to("cpu")
    first = vae.encode_stream(pixels[:, :, 5:], state)
    assert torch.equal(vae.encode_stream(pixels[:, :, 5:], fork), first)
    assert torch.equal(vae.encode_stream(pixels[:, :, 5:], moved), first)
    assert EncodeState.from_tensors(EncodeState().tensors()).fresh


def test_snapshot_of_another_kind_is_refused(vae):
    state = EncodeState()
    vae.encode_stream(draw(1, 3, 1, 16, 16), state)
    with pytest.raises(InputError, match="no DecodeState.*start with 'decoder.'"):
        DecodeState.from_tensors(state.tensors())
    with pytest.raises(InputError, match="no EncodeState"):
        EncodeState.from_tensors({})


def test_state_keeps_its_size(vae):
    state = DecodeState()
    vae.decode_stream(draw(1, 16, 2, 2, 2), state)
    sizes = set()
    for block in range(20):
        vae.decode_stream(draw(1, 16, 3, 2, 2, seed=block), state)
        sizes.add((state.nbytes, sum(cache.untyped_storage().nbytes() for cache in state.caches.values())))
    assert len(sizes) == 1
    held, stored = sizes.pop()
    assert held == stored, "a cache is a view that keeps a larger tensor alive"


def test_state_of_the_released_vae_holds_two_frames_per_convolution():
    """On the meta device: real sizes, no numbers."""
    vae, state = WanVAE(WAN_2_1, device="meta", dtype=torch.bfloat16), DecodeState()
    height, width = 368, 688
    video = vae.decode_stream(torch.empty(1, 16, 3, height // 8, width // 8, device="meta"), state)
    assert video.shape == (1, 3, 9, height, width)
    assert all(cache.shape[2] == 2 for cache in state.caches.values())
    convolutions = [m for m in vae.decoder.modules() if isinstance(m, torch.nn.Conv3d) and m.kernel_size[0] == 3]
    assert len(state.caches) == len(convolutions)
    assert state.nbytes < 1.2e9
    assert sum(parameter.numel() for parameter in vae.parameters()) == 126_892_531


def test_another_size_in_a_running_stream_is_refused_and_harms_nothing(vae):
    latents, state = draw(1, 16, 2, 2, 2), DecodeState()
    expected = vae.decode(latents)
    vae.decode_stream(latents[:, :, :1], state)
    with pytest.raises(InputError, match=r"\(1, 2, 2\), now \(1, 2, 3\)"):
        vae.decode_stream(draw(1, 16, 1, 2, 3), state)
    assert torch.equal(vae.decode_stream(latents[:, :, 1:], state), expected[:, :, 1:])


def test_state_left_half_way_is_not_used(vae):
    state = DecodeState()
    failing = make_vae(vae.config)
    failing.decoder.head[2].weight = torch.nn.Parameter(torch.zeros(3, 5, 3, 3, 3))
    with pytest.raises(RuntimeError):
        failing.decode_stream(draw(1, 16, 1, 2, 2), state)
    with pytest.raises(MachineError, match="fresh state"):
        vae.decode_stream(draw(1, 16, 1, 2, 2), state)
    with pytest.raises(MachineError, match="failed half way"):
        state.tensors()


@pytest.mark.parametrize(
    "shape", [(1, 3, 4, 16, 16), (1, 3, 0, 16, 16), (1, 3, 5, 16, 20), (1, 4, 5, 16, 16), (3, 5, 16, 16)]
)
def test_videos_that_cannot_be_encoded(vae, shape):
    with pytest.raises(InputError, match="multiple of 4 at the start|have shape"):
        vae.encode(torch.zeros(shape))


def test_frames_that_do_not_fill_a_latent_are_refused(vae):
    state = EncodeState()
    vae.encode_stream(torch.zeros(1, 3, 1, 16, 16), state)
    with pytest.raises(InputError, match="5 frames of 16x16: frames must be a multiple of 4,"):
        vae.encode_stream(torch.zeros(1, 3, 5, 16, 16), state)


@pytest.mark.parametrize("shape", [(1, 48, 3, 2, 2), (16, 3, 2, 2), (1, 16, 0, 2, 2)])
def test_latents_that_cannot_be_decoded(vae, shape):
    with pytest.raises(InputError, match=r"decodes \[batch, 16, frames"):
        vae.decode(torch.zeros(shape))


def relative_rms(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).square().mean() / expected.square().mean()).sqrt().item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_costs_a_few_roundings(vae, dtype):
    half = load_wan_vae(vae.state_dict(), dtype=dtype)
    assert half.dtype == dtype
    latents, pixels = draw(1, 16, 3, 3, 3), draw(1, 3, 5, 24, 24)
    for ours, exact in ((half.decode(latents), vae.decode(latents)), (half.encode(pixels), vae.encode(pixels))):
        assert ours.dtype == torch.float32
        assert relative_rms(ours, exact) <= 5 * torch.finfo(dtype).eps


def test_norm_of_large_half_precision_values(vae):
    """Squares beyond float16's range, sums beyond bfloat16's resolution."""
    norm = vae.decoder.head[0]
    x = draw(1, norm.gamma.shape[0], 1, 4, 4) * 2000
    expected = norm(x)
    assert torch.allclose(norm(x.half()), expected, rtol=2e-3, atol=2e-3)
    lengths = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32)
    assert torch.allclose(x / lengths * norm.scale * norm.gamma, expected, atol=1e-5)


def test_still_picture_settles_exactly_where_the_sizes_say():
    torch.set_num_threads(1)
    for config in (VaeConfig(dim=8, num_res_blocks=1), VaeConfig(dim=8, num_res_blocks=2)):
        vae = make_vae(config)
        picture, settles = draw(3, 8, 8), config.transient_latents
        video = picture[None, :, None].expand(-1, -1, config.video_frames(settles + 3), -1, -1)
        encoded = vae.encode(video)[0]
        settled = settled_latent(vae, picture)
        assert torch.allclose(encoded[:, settles:], settled.expand(-1, 3, -1, -1), rtol=0, atol=1e-6)
        short = encode_still(vae, picture, settles + 3)
        assert torch.allclose(short, encoded, rtol=0, atol=1e-6)
        assert torch.equal(encode_still(vae, picture, 2, first_latent=1), encoded[:, 1:3])
        assert torch.equal(encode_still(vae, picture, 19, first_latent=73), settled.expand(-1, 19, -1, -1))
    assert WAN_2_1.transient_latents == 28


class Stopped(Exception):
    pass


def test_a_picture_is_left_and_told_about_between_layers(vae):
    """What is called between layers is called often enough to stop within one, and exactly as often as announced."""
    picture, calls = draw(3, 8, 8), []
    settles = vae.config.transient_latents
    for part in ((1, 1), (3, 0), (19, 73), (settles + 3, 0), (3, settles - 1)):
        calls.clear()
        expected = encode_still(vae, picture, *part)
        assert torch.equal(encode_still(vae, picture, *part, on_layer=lambda: calls.append(1)), expected)
        assert len(calls) == still_chunks(vae.config, *part) * vae.encoder.layers
    calls.clear()

    def stop() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise Stopped

    with pytest.raises(Stopped):
        encode_still(vae, picture, 19, first_latent=73, on_layer=stop)
    assert len(calls) == 3 < vae.encoder.layers


def test_priming_is_left_between_layers_and_later_blocks_are_not_watched(vae):
    priming, calls = draw(16, 3, 2, 2), []
    place = PlacedVAE(vae, torch.device("cpu"), torch.float32)
    decoder = OnlineDecoder(place, priming, "hold", on_layer=lambda: calls.append(1))
    assert len(calls) == 3 * vae.decoder.layers
    block = draw(16, 3, 2, 2)
    assert torch.equal(decoder.decode(block), OnlineDecoder(place, priming, "hold").decode(block))
    assert len(calls) == 3 * vae.decoder.layers

    def stop() -> None:
        raise Stopped

    with pytest.raises(Stopped):
        OnlineDecoder(place, priming, "hold", on_layer=stop)


def test_still_picture_of_a_wrong_size(vae):
    with pytest.raises(InputError, match="20x16; width and height must be multiples of 8"):
        encode_still(vae, torch.zeros(3, 16, 20), 2)
    with pytest.raises(InputError, match=r"shape \[1, 3, 16, 16\]"):
        encode_still(vae, torch.zeros(1, 3, 16, 16), 2)
    with pytest.raises(InputError, match="latent_frames is 0"):
        encode_still(vae, torch.zeros(3, 16, 16), 0)


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module.", "first_stage_model.", "vae.module.", "pipe.vae._orig_mod."]
)
def test_wrappers_around_known_names_do_not_matter(vae, prefix):
    weights = {f"{prefix}{name}": value for name, value in vae.state_dict().items()}
    loaded = load_wan_vae({**weights, "text_encoder.shared.weight": torch.zeros(2)} if "." in prefix[:-1] else weights)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in vae.state_dict().items())


def test_a_vae_whose_halves_are_compiled():
    whole = make_vae(VaeConfig(dim=8, num_res_blocks=1))
    expected = {name: value.clone() for name, value in whole.state_dict().items()}
    for half in ("encoder", "decoder"):
        setattr(whole, half, torch.compile(getattr(whole, half)))
    assert any("_orig_mod." in name for name in whole.state_dict())
    loaded = load_wan_vae(whole.state_dict()).state_dict()
    assert loaded.keys() == expected.keys() and all(torch.equal(loaded[name], expected[name]) for name in loaded)


def test_loading_copies_nothing(vae):
    weights = vae.state_dict()
    loaded = load_wan_vae(weights)
    assert loaded.config == vae.config
    assert all(value.data_ptr() == weights[name].data_ptr() for name, value in loaded.state_dict().items())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_vae_with_48_latent_channels(vae):
    weights = WanVAE(VaeConfig(dim=8, num_res_blocks=1, z_dim=48)).state_dict()
    with pytest.raises(CheckpointError, match="48 latent channels instead of 16.*of another shape: .*Wan2.1_VAE.pth"):
        load_wan_vae(weights)


def test_weights_of_other_models_are_named():
    wan_2_2 = {
        "conv2.weight": torch.zeros(48, 48, 1, 1, 1),
        "encoder.conv1.weight": torch.zeros(160, 12, 3, 3, 3),
        "decoder.upsamples.0.upsamples.0.residual.2.weight": torch.zeros(1),
    }
    with pytest.raises(CheckpointError, match="look like the Wan 2.2 VAE.*missing: .*wan_2.1_vae.safetensors"):
        load_wan_vae(wan_2_2)
    with pytest.raises(CheckpointError, match="picture VAE of the Stable Diffusion.*1 unexpected: decoder.mid"):
        load_wan_vae({"decoder.mid.block_1.norm1.weight": torch.zeros(4)})
    with pytest.raises(CheckpointError, match="not a complete Wan 2.1 VAE. 194 missing: .*, .*, .*, .*, .*, \\.\\.\\."):
        load_wan_vae({})


def test_an_incomplete_vae_names_what_it_lacks(vae):
    weights = vae.state_dict()
    del weights["decoder.head.2.bias"]
    weights["extra"] = torch.zeros(1)
    weights["conv1.bias"] = torch.zeros(3)
    with pytest.raises(CheckpointError) as caught:
        load_wan_vae(weights)
    text = str(caught.value)
    assert "1 missing: decoder.head.2.bias;" in text
    assert "1 unexpected: extra;" in text
    assert "1 of another shape: conv1.bias [3] instead of [32]." in text


def test_weights_in_a_dtype_that_cannot_compute(vae):
    weights = {name: value.to(torch.float8_e4m3fn) for name, value in vae.state_dict().items()}
    with pytest.raises(CheckpointError, match="float8_e4m3fn; it computes in"):
        load_wan_vae(weights)
    assert load_wan_vae(weights, dtype=torch.float32).dtype == torch.float32


def test_gradients_reach_every_weight():
    """The demo's VAE is trained with this model."""
    trained = WanVAE(VaeConfig(dim=4, num_res_blocks=1))
    pixels = draw(1, 3, 9, 16, 16)
    (trained.decode(trained.encode(pixels)) - pixels).square().mean().backward()
    unreached = [n for n, p in trained.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert unreached == []


@pytest.mark.parametrize("seed", range(2))
def test_the_latents_of_a_still_history_that_a_decoder_needs(seed):
    """With `decoder_past_latents` of them the frames are those of any longer history, whatever the weights. The 19 of
    the motion history are too few for that: how much is missing depends on the weights."""
    vae = make_vae(VaeConfig(dim=8), seed)
    settled, clip = settled_latent(vae, draw(3, 16, 16).clamp(-1, 1)), draw(16, 3, 2, 2)

    def frames(latents: int) -> torch.Tensor:
        decoder = OnlineDecoder(
            PlacedVAE(vae, torch.device("cpu"), torch.float32), settled.expand(-1, latents, -1, -1), "trim"
        )
        return decoder.decode(clip)

    needed = vae.config.decoder_past_latents
    assert 19 < needed < 92
    assert torch.equal(frames(needed), frames(92))
    assert (frames(19) - frames(92)).abs().max() > 1e-3
