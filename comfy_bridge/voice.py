"""Audio Encode at work: the voice as the model hears it, by whatever audio encoder is connected."""

from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from liveavatar_runtime.duration import FRAMES_PER_BLOCK
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
    from liveavatar_runtime.audio.voice import Voice
    from liveavatar_runtime.audio.waveform import Sound
    from liveavatar_runtime.audio.windows import Encode
    from liveavatar_runtime.fingerprint import Fingerprint
    from liveavatar_runtime.sampling.plan import ClipPlan

Context = Literal["whole", "bounded"]
CONTEXTS: tuple[Context, ...] = get_args(Context)
WHOLE, BOUNDED = CONTEXTS


def encode_voice(
    encoder: AudioEncoder | None, audio: object, hidden: Hidden, notes: Notes, context: Context = WHOLE
) -> "AvatarAudio":
    """An AUDIO of any node, encoded; the notes say what of the sound was changed.

    Raises InputError when encoder or sound are missing or of no use, DeviceFullError when memory is.
    """
    from liveavatar_runtime.audio.encoded_silence import EncodedSilence

    if context not in CONTEXTS:
        raise InputError(f"context is {context!r}; allowed are {', '.join(CONTEXTS)}.")
    if encoder is None:
        raise InputError(
            "no audio encoder: this model has none of its own. Connect Load Audio Encoder with "
            "wav2vec2_large_english_fp16.safetensors to the audio_encoder input."
        )
    sound = read_audio(audio)
    notes.warn(*sound.changes)
    with voice_told(encoder, sound):
        if context == BOUNDED:
            voice = _bounded_voice(encoder, sound, preparation(hidden.unique_id))
        else:
            voice = _long_voice(encoder, sound) or _whole_voice(encoder, sound, preparation(hidden.unique_id))
        return replace(voice, silence=EncodedSilence(prepared_encoder(encoder)))


def _whole_voice(encoder: AudioEncoder, sound: "Sound", progress: Progress) -> "AvatarAudio":
    from liveavatar_runtime.audio.features import AvatarAudio

    return AvatarAudio(hidden_states(encoder, sound, progress)[None], sound.waveform, sound.sample_rate)


def _long_voice(encoder: AudioEncoder, sound: "Sound") -> "AvatarAudio | None":
    """A track of several windows, of which the first is encoded; None for a shorter one, and for an encoder that does
    not show its weights, so that nothing would tell its features apart before they are there."""
    from liveavatar_runtime.audio.features import AvatarAudio
    from liveavatar_runtime.audio.windows import EncodedWindows, LongTrack, SampledTrack, is_long

    weights = weights_of_encoder(encoder) if is_long(sound.waveform, sound.sample_rate) else None
    if weights is None:
        return None
    encode, samples = prepared_samples(encoder, sound)
    windows = EncodedWindows(encode, SampledTrack(samples), LongTrack(folder=temporary_root()), device_of(encoder))
    return AvatarAudio.of_windows(windows, (sound.waveform, sound.sample_rate), sound_key(samples, weights))


def _bounded_voice(encoder: AudioEncoder, sound: "Sound", progress: Progress) -> "AvatarAudio":
    """Its windows are encoded when they are needed, but for an encoder that does not show its weights: nothing else
    would tell its features apart."""
    from liveavatar_runtime.audio.bounded import BoundedTrack, HeardSound
    from liveavatar_runtime.audio.features import AvatarAudio
    from liveavatar_runtime.audio.windows import EncodedWindows

    weights = weights_of_encoder(encoder)
    encode, levelled = levelled_encoder(encoder)
    heard = HeardSound(sound.waveform, sound.sample_rate, weights_key(weights) if weights else "", levelled)

    def told(window: Tensor, rate: int) -> Tensor:
        with voice_told(encoder, sound):
            return encode(window, rate)

    windows = EncodedWindows(told, heard, BoundedTrack(folder=temporary_root()), device_of(encoder))
    if not heard.encoder:
        windows.need(0, heard.frames, progress)
    return AvatarAudio.of_bounded(windows, heard)


def levelled_encoder(encoder: AudioEncoder) -> "tuple[Encode, bool]":
    """What encodes samples [1, S] at the level that they have, and whether it wants them at mean 0 and variance 1."""
    if isinstance(encoder, BundleAudioEncoder):
        return encoder.encode_prepared, encoder.module.config.do_normalize
    model: Any = getattr(encoder, "model", None)
    if not getattr(model, "do_normalize", False):
        return partial(_all_layers, encoder), False

    def encode(window: Tensor, rate: int) -> Tensor:
        # It would bring each window to one level by itself, and turn the noise of a pause up to that of speech.
        model.do_normalize = False
        try:
            return _all_layers(encoder, window, rate)
        finally:
            model.do_normalize = True

    return encode, True


def prepared_samples(encoder: AudioEncoder, sound: "Sound") -> "tuple[Encode, Tensor]":
    """What encodes a window of a long track, at any time, and the track's samples [1, S] at 16 kHz."""
    from liveavatar_runtime.audio.waveform import to_encoder_rate

    whole = prepared_encoder(encoder)
    if isinstance(encoder, BundleAudioEncoder):
        samples = encoder.prepared(sound.waveform, sound.sample_rate)
    else:
        samples = to_encoder_rate(sound.waveform, sound.sample_rate)

    def encode(window: Tensor, rate: int) -> Tensor:
        with voice_told(encoder, sound):
            return whole(window, rate)

    return encode, samples


def prepared_encoder(encoder: AudioEncoder) -> "Encode":
    """What encodes samples [1, S] at 16 kHz that are as the encoder wants them."""
    return encoder.encode_prepared if isinstance(encoder, BundleAudioEncoder) else partial(_all_layers, encoder)


def weights_of_encoder(encoder: AudioEncoder) -> dict[str, Tensor] | None:
    module = getattr(encoder, "module", getattr(encoder, "model", None))
    return module.state_dict() if isinstance(module, torch.nn.Module) else None


def sound_key(samples: Tensor, weights: "dict[str, Tensor]") -> str:
    """Of samples as they are encoded, an encoder's weights, and the rule by which the track is cut into windows."""
    from liveavatar_runtime.audio.windows import A_MINUTE_AT_A_TIME
    from liveavatar_runtime.checkpoint.content import InMemory, contents
    from liveavatar_runtime.fingerprint import Fingerprint

    rule = A_MINUTE_AT_A_TIME.window_seconds, A_MINUTE_AT_A_TIME.context_seconds
    (heard,) = contents({"samples": InMemory(samples)}).values()
    return _with_weights(Fingerprint().add("windows", list(rule)).add("samples", heard.digest), weights)


def weights_key(weights: "dict[str, Tensor]") -> str:
    """Of an encoder."""
    from liveavatar_runtime.fingerprint import Fingerprint

    return _with_weights(Fingerprint(), weights)


def _with_weights(fingerprint: "Fingerprint", weights: "dict[str, Tensor]") -> str:
    from liveavatar_runtime.checkpoint.content import InMemory, contents

    for name, content in contents({name: InMemory(weights[name]) for name in sorted(weights)}).items():
        fingerprint.add("weight", [name, content.digest])
    return fingerprint.hexdigest()


def encode_ahead(voice: "Voice", plan: "ClipPlan", node_id: str) -> None:
    """Have what a plan's segment hears encoded before the model is loaded, where the encoder works on a device that it
    would take memory of; on a processor it works beside the sampling, when a block needs it."""
    device = voice.encoding_device
    if device is None or device.type == "cpu":
        return
    blocks = plan.segment.blocks
    # Without a state, sampling begins with blocks before the segment, two windows at most.
    first = max(0, blocks.start - 2 * plan.window_blocks)
    progress = preparation(node_id, "Encoding the voice")
    voice.encode_frames(first * FRAMES_PER_BLOCK, (blocks.stop - first) * FRAMES_PER_BLOCK, plan.fps, progress)


def device_of(encoder: AudioEncoder) -> torch.device:
    """Where it works."""
    return getattr(getattr(encoder, "patcher", None), "load_device", torch.device("cpu"))


def voice_told(encoder: AudioEncoder, sound: "Sound") -> AbstractContextManager[None]:
    """Raises DeviceFullError, with what frees memory, when the device of the encoder or the RAM is full."""
    from liveavatar_runtime.duration import ENCODER_SAMPLE_RATE
    from liveavatar_runtime.out_of_memory import full_device_told
    from liveavatar_runtime.texts import gib

    device = device_of(encoder)
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

    how = LongTrack(folder=temporary_root(), progress=progress)
    if isinstance(encoder, BundleAudioEncoder):
        return encoder.encode_long(sound.waveform, sound.sample_rate, how)
    return encode_in_windows(partial(_all_layers, encoder), sound.waveform, sound.sample_rate, how)


def _all_layers(encoder: AudioEncoder, samples: Tensor, rate: int) -> Tensor:
    layers = encoder.encode_audio(samples[None], rate)["encoded_audio_all_layers"]
    if layers is None:
        raise InputError("this audio encoder gives no hidden states; use a wav2vec2 (wav2vec2_large_english).")
    return torch.cat(tuple(layers)).float().cpu()
