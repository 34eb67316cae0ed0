"""VAE and audio encoder of a bundle, as the objects that ComfyUI's own loaders give."""

from typing import TYPE_CHECKING, cast

import comfy.model_management
import comfy.sd
import comfy.utils
from torch import Tensor

from liveavatar_runtime.checkpoint.bundle import Bundle
from liveavatar_runtime.errors import CheckpointError

from .comfy_types import EncodedAudio, Vae
from .folders import maps_files
from .memory import load_on_device, patcher_for

if TYPE_CHECKING:
    from liveavatar_runtime.audio.wav2vec2 import Wav2Vec2Encoder
    from liveavatar_runtime.audio.windows import LongTrack


def load_bundle_vae(bundle: Bundle) -> Vae | None:
    """A comfy.sd.VAE; None when the bundle has none. Raises CheckpointError when it is no complete Wan 2.1 VAE."""
    if bundle.vae is None:
        return None
    from liveavatar_runtime.checkpoint.safetensors_io import read_weight_file
    from liveavatar_runtime.reading import readable
    from liveavatar_runtime.vae import load_wan_vae

    with readable(bundle.vae, "a VAE"):
        tensors, metadata = read_weight_file(bundle.vae, mapped=maps_files())
        # Core only logs what is missing, and decodes with what happens to be in memory there.
        load_wan_vae(tensors)
        vae = comfy.sd.VAE(sd=tensors, metadata=metadata)
        vae.throw_exception_if_invalid()
    return cast(Vae, vae)


def load_bundle_audio_encoder(bundle: Bundle) -> "BundleAudioEncoder | None":
    """None when the bundle has none. Raises CheckpointError when its weights don't fit."""
    if bundle.wav2vec2 is None:
        return None
    from liveavatar_runtime.audio.wav2vec2 import load_wav2vec2
    from liveavatar_runtime.checkpoint.safetensors_io import read_weight_file
    from liveavatar_runtime.reading import first_file, read_json, readable

    weights = next((f for f in (*bundle.wav2vec2.glob("*.safetensors"), *bundle.wav2vec2.glob("*.bin"))), None)
    if weights is None:
        raise CheckpointError(f"{bundle.wav2vec2} holds no weights; it needs model.safetensors")
    config = first_file(bundle.wav2vec2, ("config.json",))
    with readable(weights, "an audio encoder"):
        # Read, not mapped: the encoder would keep the file mapped as long as it lives, though it needs all of it.
        tensors, _ = read_weight_file(weights, mapped=False)
        return BundleAudioEncoder(load_wav2vec2(tensors, read_json(config) if config else None))


class BundleAudioEncoder:
    """An AUDIO_ENCODER with the interface of ComfyUI's own, around the runtime's wav2vec2."""

    def __init__(self, module: "Wav2Vec2Encoder") -> None:
        management = comfy.model_management
        self.module = module
        self.patcher = patcher_for(module, management.text_encoder_device(), management.text_encoder_offload_device())

    def encode_long(self, waveform: Tensor, sample_rate: int, how: "LongTrack") -> Tensor:
        """waveform [C, S] -> all hidden states [layers + 1, frames, width] on the CPU, at one level."""
        load_on_device(self.patcher)
        return self.module.encode_long(waveform, sample_rate, how)

    def prepared(self, waveform: Tensor, sample_rate: int) -> Tensor:
        """waveform [C, S] -> [1, S16] at 16 kHz and at the level that `encode_prepared` takes."""
        return self.module.prepare(waveform, sample_rate)[0]

    def encode_prepared(self, samples: Tensor, sample_rate: int) -> Tensor:
        """A stretch of what `prepared` gave -> all hidden states [layers + 1, frames, width]."""
        load_on_device(self.patcher)
        return self.module.encode_prepared(samples, sample_rate)

    def encode_audio(self, audio: Tensor, sample_rate: int) -> EncodedAudio:
        """audio [1, C, S] -> the last hidden state, all of them ([1, frames, width] each), samples at 16 kHz."""
        load_on_device(self.patcher)
        samples, rate = self.module.prepare(audio[0], sample_rate)
        states = self.module.encode_prepared(samples, rate)
        layers = tuple(state[None] for state in states)
        return {
            "encoded_audio": layers[-1],
            "encoded_audio_all_layers": layers,
            "audio_samples": samples.shape[-1],
        }
