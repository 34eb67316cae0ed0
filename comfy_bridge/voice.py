"""Audio Encode at work: the voice as the model hears it, by whatever audio encoder is connected."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from liveavatar_runtime.errors import InputError
from liveavatar_runtime.progress import Progress

from .audio_input import read_audio
from .bundle_parts import BundleAudioEncoder
from .comfy_types import AudioEncoder, Hidden
from .folders import temporary_root
from .notes import Notes
from .progress import preparation

if TYPE_CHECKING:
    from liveavatar_runtime.audio.features import AvatarAudio
    from liveavatar_runtime.audio.waveform import Sound


def encode_voice(encoder: AudioEncoder | None, audio: object, hidden: Hidden, notes: Notes) -> "AvatarAudio":
    """An AUDIO of any node, encoded; the notes say what of the sound was changed.

    Raises InputError when encoder or sound are missing or of no use, DeviceFullError when memory is.
    """
    from liveavatar_runtime.audio.features import AvatarAudio

    if encoder is None:
        raise InputError(
            "no audio encoder: this model has none of its own. Connect Load Audio Encoder with "
            "wav2vec2_large_english_fp16.safetensors to the audio_encoder input."
        )
    sound = read_audio(audio)
    with voice_told(encoder, sound):
        features = hidden_states(encoder, sound, preparation(hidden.unique_id))
    notes.warn(*sound.changes)
    return AvatarAudio(features[None], sound.waveform, sound.sample_rate)


def voice_told(encoder: AudioEncoder, sound: "Sound") -> AbstractContextManager[None]:
    """Raises DeviceFullError, with what frees memory, when the device of the encoder or the RAM is full."""
    from liveavatar_runtime.duration import ENCODER_SAMPLE_RATE
    from liveavatar_runtime.out_of_memory import full_device_told
    from liveavatar_runtime.texts import gib

    device = getattr(getattr(encoder, "patcher", None), "load_device", torch.device("cpu"))
    channels, samples = sound.waveform.shape
    size = channels * samples * 4
    mono = size // channels * ENCODER_SAMPLE_RATE // sound.sample_rate
    others = ["the video in parts with a shorter voice each", f"closing other programs that use {device}"]
    plain = [f"mono sound of 16 kHz ({gib(mono)} instead of {gib(size)})"] if mono < size else []
    # The encoder works on a minute at a time, whatever the length; what grows with it is in RAM.
    lowvram = [] if device.type == "cpu" else ["starting ComfyUI with --lowvram, which encodes on the processor"]
    return full_device_told("encoding the voice", device, lambda: [*lowvram, *others], lambda: [*plain, *others])


def hidden_states(encoder: AudioEncoder, sound: "Sound", progress: Progress) -> Tensor:
    """All of them, [layers + 1, frames, width] float32 on the CPU; long tracks in windows."""
    from liveavatar_runtime.audio.windows import LongTrack, encode_in_windows

    def all_layers(samples: Tensor, rate: int) -> Tensor:
        layers = encoder.encode_audio(samples[None], rate)["encoded_audio_all_layers"]
        if layers is None:
            raise InputError("this audio encoder gives no hidden states; use a wav2vec2 (wav2vec2_large_english).")
        return torch.cat(tuple(layers)).float().cpu()

    how = LongTrack(folder=temporary_root(), progress=progress)
    if isinstance(encoder, BundleAudioEncoder):
        return encoder.encode_long(sound.waveform, sound.sample_rate, how)
    return encode_in_windows(all_layers, sound.waveform, sound.sample_rate, how)
