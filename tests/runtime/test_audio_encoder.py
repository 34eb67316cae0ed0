"""wav2vec2 against the transformers library, and its weights in every spelling."""

from collections.abc import Callable

import pytest
import torch
from closeness import assert_close_after
from random_weights import randomised
from torch import Tensor
from transformers import Wav2Vec2Config as HfConfig
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC, Wav2Vec2Model

from liveavatar_runtime.audio.wav2vec2 import Wav2Vec2Encoder, infer_config, load_wav2vec2, plain_names
from liveavatar_runtime.audio.windows import LongTrack
from liveavatar_runtime.errors import CheckpointError, InputError

WIDTH, CONVOLUTIONS, LAYER_PRODUCTS = 32, 8, 5
"""Of the tiny encoder: terms of a product; convolutions, one after the other; products of a layer, one after the other
(projection, scores, values, two of the feed-forward part)."""
LARGE = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
BASE = {"feat_extract_norm": "group", "conv_bias": False, "do_stable_layer_norm": False}


def tiny_config(style: dict[str, object], **changes: object) -> HfConfig:
    """The published architecture at width 32."""
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 24, "num_attention_heads": 4, "intermediate_size": 48}
    sizes |= {"conv_dim": (24,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "vocab_size": 9}
    return HfConfig(**{**sizes, **style, **changes})


def noise(samples: int, channels: int = 1) -> Tensor:
    return 0.3 * torch.randn(channels, samples, generator=torch.Generator().manual_seed(5))


def hidden_states(model: Wav2Vec2Model, values: Tensor) -> Tensor:
    """The library's hidden states [L + 1, T, D], the last one after the final layer norm.

    transformers 4, which the original runs on, returns that one as the last; transformers 5 only as the output.
    """
    with torch.no_grad():
        output = model(values, output_hidden_states=True)
    return torch.cat([*output.hidden_states[:-1], output.last_hidden_state])


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    """All hidden states [L + 1, T, D], each against what came before it."""
    for layer, (state, expected) in enumerate(zip(ours, theirs, strict=True)):
        assert_close_after(CONVOLUTIONS + LAYER_PRODUCTS * layer, WIDTH, state, expected)


@pytest.fixture(scope="module")
def large() -> Wav2Vec2ForCTC:
    torch.set_num_threads(1)
    return randomised(Wav2Vec2ForCTC(tiny_config(LARGE)))


@pytest.fixture(scope="module")
def encoder(large: Wav2Vec2ForCTC) -> Wav2Vec2Encoder:
    return load_wav2vec2(large.state_dict(), large.config.to_dict())


@pytest.mark.parametrize("samples", [400, 719, 16000, 33333])
def test_all_hidden_states_of_the_large_model(large: Wav2Vec2ForCTC, encoder: Wav2Vec2Encoder, samples: int):
    waveform = noise(samples)
    processor = Wav2Vec2FeatureExtractor(do_normalize=True)
    values = torch.from_numpy(processor(waveform[0].numpy(), sampling_rate=16000).input_values[0])[None]
    states = encoder.encode(waveform, 16000)
    assert states.shape == (25, (samples - 400) // 320 + 1, 32) and states.dtype == torch.float32
    assert_close(states, hidden_states(large.wav2vec2, values))


def test_all_hidden_states_of_the_base_model():
    model = randomised(Wav2Vec2Model(tiny_config(BASE, num_hidden_layers=12)))
    encoder = load_wav2vec2(model.state_dict(), model.config.to_dict())
    waveform = noise(16000)
    assert_close(encoder.encode(waveform, 16000), hidden_states(model, waveform))


def test_the_processor_decides_about_normalising():
    model = randomised(Wav2Vec2Model(tiny_config(BASE, num_hidden_layers=2)))
    encoder = load_wav2vec2(model.state_dict(), {**model.config.to_dict(), "do_normalize": True})
    waveform = 0.01 * noise(8000) + 0.5
    values = (waveform - waveform.mean()) / (waveform.var(correction=0) + 1e-7).sqrt()
    assert_close(encoder.encode(waveform, 16000), hidden_states(model, values))


def old_weight_norm(name: str) -> str:
    return name.replace("parametrizations.weight.original0", "weight_g").replace(
        "parametrizations.weight.original1", "weight_v"
    )


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.removeprefix("wav2vec2."),
        old_weight_norm,
        lambda name: old_weight_norm(name).removeprefix("wav2vec2."),
        lambda name: "audio_encoder.model." + name,
    ],
    ids=["no prefix", "old weight norm", "both", "another prefix"],
)
def test_every_spelling_of_the_names(large: Wav2Vec2ForCTC, encoder: Wav2Vec2Encoder, rename: Callable[[str], str]):
    weights = {rename(name): weight for name, weight in large.state_dict().items()}
    weights |= {rename("wav2vec2.masked_spec_embed"): torch.ones(32), "quantizer.codevectors": torch.ones(1, 2, 3)}
    other = load_wav2vec2(weights, large.config.to_dict())
    assert torch.equal(other.encode(noise(8000), 16000), encoder.encode(noise(8000), 16000))


def test_half_precision_files_are_computed_in_float32(large: Wav2Vec2ForCTC, encoder: Wav2Vec2Encoder):
    halves = {name: weight.half() for name, weight in large.state_dict().items()}
    states = load_wav2vec2(halves, large.config.to_dict()).encode(noise(8000), 16000)
    assert states.dtype == torch.float32
    assert 0 < (states - encoder.encode(noise(8000), 16000)).abs().max() < 0.05


def test_architecture_of_the_published_models_comes_from_the_shapes():
    for style, sizes, heads in (
        (LARGE, {"hidden_size": 1024, "intermediate_size": 4096}, 16),
        (BASE, {"hidden_size": 768, "intermediate_size": 3072}, 12),
    ):
        published = {"conv_dim": (512,) * 7, "num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 16}
        with torch.device("meta"):
            model = Wav2Vec2Model(
                tiny_config(style, num_hidden_layers=2, num_attention_heads=heads, **published, **sizes)
            )
        config = infer_config(plain_names(model.state_dict()))
        assert (config.dim, config.ffn_dim, config.num_layers) == (*sizes.values(), 2)
        assert (config.num_heads, config.position_kernel, config.position_groups) == (heads, 128, 16)
        assert config.stable_layer_norm == config.layer_norm_extractor == config.conv_bias == (style is LARGE)
        assert config.do_normalize == (style is LARGE)
        assert config.convolutions[0] == (512, 10, 5) and config.convolutions[-1] == (512, 2, 2)


def test_other_rates_and_stereo(encoder: Wav2Vec2Encoder):
    time = torch.arange(48000) / 48000
    for rate in (8000, 44100, 48000):
        tone = torch.sin(2 * torch.pi * 440 * time[:rate] * 48000 / rate)
        states = encoder.encode(torch.stack([tone, 0.5 * tone]), rate)
        assert states.shape == (25, 49, 32)
        reference = encoder.encode(torch.sin(2 * torch.pi * 440 * torch.arange(16000) / 16000)[None], 16000)
        similarity = torch.nn.functional.cosine_similarity(states[:, 5:-5], reference[:, 5:-5], dim=-1)
        assert similarity.min() > 0.95, rate


def test_long_sound_has_the_frames_of_one_pass(encoder: Wav2Vec2Encoder):
    waveform = noise(16000 * 20 + 319)
    whole = encoder.encode(waveform, 16000)
    assert torch.equal(encoder.encode_long(waveform, 16000), whole)
    seen: list[tuple[int, int]] = []
    windows = encoder.encode_long(
        waveform,
        16000,
        LongTrack(window_seconds=6, context_seconds=2, progress=lambda done, total: seen.append((done, total))),
    )
    assert windows.shape == whole.shape and seen == [(i, len(seen)) for i in range(1, len(seen) + 1)]
    assert torch.nn.functional.cosine_similarity(windows, whole, dim=-1).min() > 0.9
    assert (
        encoder.encode_long(waveform, 16000, LongTrack(window_seconds=6, context_seconds=2, dtype=torch.float16)).dtype
        == torch.float16
    )


def test_a_long_pause_stays_quiet(encoder: Wav2Vec2Encoder):
    """Windows share the level of the whole track; a window that normalised itself would hear the hiss as speech."""
    waveform = noise(16000 * 16)
    waveform[:, 16000 * 6 :] *= 1e-4
    whole = encoder.encode(waveform, 16000)[0, 500:]
    windows = encoder.encode_long(waveform, 16000, LongTrack(window_seconds=4, context_seconds=1))[0, 500:]
    assert_close_after(CONVOLUTIONS, WIDTH, windows, whole)
    alone = encoder.encode(waveform[:, 500 * 320 :], 16000)[0]
    assert (alone - whole).abs().mean() > 0.5


def test_too_short_sound_is_refused(encoder: Wav2Vec2Encoder):
    with pytest.raises(InputError, match="399 samples at 16000 Hz; at least 400"):
        encoder.encode(noise(399), 16000)


def test_other_weights_are_refused(large: Wav2Vec2ForCTC):
    weights, config = large.state_dict(), large.config.to_dict()
    broken = {
        "not a wav2vec2": {"model.encoder.embed_positions.weight": torch.ones(2, 2)},
        "1 missing": {name: weight for name, weight in weights.items() if "layers.3.attention.k_proj.bias" not in name},
        "1 unknown": {**weights, "wav2vec2.encoder.layers.0.adapter_layer.norm.weight": torch.ones(3)},
        "1 of another shape": {**weights, "wav2vec2.encoder.layer_norm.weight": torch.ones(3)},
        "pos_conv_embed": {name: weight for name, weight in weights.items() if "pos_conv" not in name},
        "kernels": {name: weight for name, weight in weights.items() if "conv_layers.6" not in name},
    }
    for message, state_dict in broken.items():
        with pytest.raises(CheckpointError, match=message):
            load_wav2vec2(state_dict, config)
    with pytest.raises(CheckpointError, match="5 attention heads do not divide"):
        load_wav2vec2(weights, {**config, "num_attention_heads": 5})
