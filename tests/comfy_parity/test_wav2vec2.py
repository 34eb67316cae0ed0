"""Our audio encoder against ComfyUI's own on the same random weights."""

import importlib

import pytest
import torch
from closeness import assert_close_after
from random_weights import randomised
from torch import Tensor

from liveavatar_runtime.audio.wav2vec2 import load_wav2vec2
from liveavatar_runtime.audio.waveform import to_encoder_rate
from liveavatar_runtime.audio.windows import LongTrack, encode_in_windows


def speech_like(seconds: float, sample_rate: int) -> Tensor:
    """Two channels of noise whose loudness changes, [2, S]."""
    time = torch.arange(round(seconds * sample_rate)) / sample_rate
    noise = torch.randn(2, len(time), generator=torch.Generator().manual_seed(11))
    return 0.2 * noise * (1 + torch.sin(6 * time))


def comfy_encoder(comfy, **config):
    """ComfyUI's AUDIO_ENCODER of the given architecture, as its loader makes it."""
    # ComfyUI's audio encoder expects this module to be imported already.
    importlib.import_module("comfy.model_patcher")
    from comfy.audio_encoders.audio_encoders import AudioEncoderModel

    torch.set_num_threads(1)
    encoder = AudioEncoderModel({"model_type": "wav2vec2", **config})
    randomised(encoder.model)
    return encoder


# The architectures of ComfyUI's loader with fewer layers, to stay small and fast.
ARCHITECTURES = {
    "base": {
        "embed_dim": 768,
        "num_heads": 12,
        "num_layers": 4,
        "conv_norm": False,
        "conv_bias": False,
        "do_normalize": False,
        "do_stable_layer_norm": False,
    },
    "large": {
        "embed_dim": 1024,
        "num_heads": 16,
        "num_layers": 3,
        "conv_norm": True,
        "conv_bias": True,
        "do_normalize": True,
        "do_stable_layer_norm": True,
    },
}


def native_states(encoder, waveform: Tensor, sample_rate: int) -> Tensor:
    """Every hidden state of ComfyUI's encoder, [L + 1, T, D]."""
    with torch.no_grad():
        return torch.cat(encoder.encode_audio(waveform[None], sample_rate)["encoded_audio_all_layers"])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_hidden_states_equal_comfyui(comfy, name: str):
    native = comfy_encoder(comfy, **ARCHITECTURES[name])
    ours = load_wav2vec2({"wav2vec2." + key: weight for key, weight in native.get_sd().items()})
    for seconds, sample_rate in ((1.0, 16000), (0.7, 44100)):
        waveform = speech_like(seconds, sample_rate)
        samples = to_encoder_rate(waveform, sample_rate)
        if ARCHITECTURES[name]["do_normalize"]:
            samples = (samples - samples.mean()) / torch.sqrt(samples.var() + 1e-7)
        expected = native_states(native, waveform, sample_rate)
        for layer, (state, theirs) in enumerate(zip(ours.encode_prepared(samples, 16000), expected, strict=True)):
            assert_close_after(8 + 5 * layer, state.shape[-1], state, theirs)


def test_level_differs_from_comfyui_only_by_the_kind_of_variance(comfy):
    """ComfyUI divides by the square root of the sample variance, the original (and ours) by the population's."""
    native = comfy_encoder(comfy, **{**ARCHITECTURES["large"], "num_layers": 1})
    waveform = speech_like(3, 16000)
    states = load_wav2vec2(native.get_sd()).encode(waveform, 16000)
    torch.testing.assert_close(states, native_states(native, waveform, 16000), atol=1e-4, rtol=0)


def test_comfyui_encoder_in_windows(comfy):
    """Windows give as many frames as one pass, close to it, and short sound passes through untouched."""
    native = comfy_encoder(comfy, **{**ARCHITECTURES["large"], "num_layers": 1})

    def encode(waveform: Tensor, sample_rate: int) -> Tensor:
        return native_states(native, waveform, sample_rate)

    short, long = speech_like(1, 44100), speech_like(6.5, 44100)
    assert torch.equal(
        encode_in_windows(encode, short, 44100, LongTrack(window_seconds=3, context_seconds=1)), encode(short, 44100)
    )
    whole = encode(long, 44100)
    windows = encode_in_windows(encode, long, 44100, LongTrack(window_seconds=3, context_seconds=1))
    assert windows.shape == whole.shape
    assert torch.nn.functional.cosine_similarity(windows, whole, dim=-1).min() > 0.9


def test_a_window_of_a_bounded_voice_keeps_its_level_in_comfyuis_encoder_too(comfy, pack):
    """Which is at its own again afterwards."""
    native = comfy_encoder(comfy, **{**ARCHITECTURES["large"], "num_layers": 1})
    encode, levelled = importlib.import_module(f"{pack.__name__}.comfy_bridge.voice").levelled_encoder(native)
    quiet = 0.1 * to_encoder_rate(speech_like(1, 16000), 16000)
    states = encode(quiet, 16000)
    torch.testing.assert_close(states, load_wav2vec2(native.get_sd()).encode_prepared(quiet, 16000), atol=1e-4, rtol=0)
    assert levelled and native.model.do_normalize
    assert not torch.allclose(states, native_states(native, quiet, 16000), atol=1e-2)
