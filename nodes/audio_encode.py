"""Audio Encode: a voice track to the features that drive the face."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from liveavatar_runtime import duration as time
from liveavatar_runtime.errors import InputError

from ..comfy_bridge.audio_input import read_audio
from ..comfy_bridge.bundle_parts import BundleAudioEncoder
from ..comfy_bridge.folders import temporary_root
from ..comfy_bridge.notes import KEPT_WHEN_CACHED, Notes
from ..comfy_bridge.progress import NodeProgress
from ..comfy_bridge.validation import verdict
from .time_inputs import FPS, INFER_FRAMES, check_clip_frames, fps_input, infer_frames_input
from .types import CATEGORY, AudioSocket


class AudioEncode(io.ComfyNode):
    """Encodes a voice with wav2vec2, the model's own or one from Load Audio Encoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveAvatar_AudioEncode",
            display_name="Audio Encode",
            category=CATEGORY,
            description="Encodes a voice track to the features that drive the face; also gives its length.",
            search_aliases=["wav2vec2", "voice", "speech features"],
            inputs=[
                io.AudioEncoder.Input(
                    "audio_encoder", tooltip="wav2vec2 of Load Avatar Model or of Load Audio Encoder."
                ),
                io.Audio.Input("audio", tooltip="The voice; any sample rate. More than two channels are mixed."),
                infer_frames_input(
                    "Video frames of a clip; only counts for the num_clip output.", optional=True, advanced=True
                ),
                fps_input("Video frames a second; only counts for the num_clip output.", optional=True, advanced=True),
            ],
            outputs=[
                AudioSocket.Output("avatar_audio", display_name="avatar_audio", tooltip="The encoded voice."),
                io.Float.Output("duration", display_name="duration", tooltip="Length of the voice in seconds."),
                io.Int.Output("num_clip", display_name="num_clip", tooltip="Clips that cover the voice."),
            ],
            hidden=[io.Hidden.unique_id],
            **KEPT_WHEN_CACHED,
        )

    @classmethod
    def validate_inputs(cls, infer_frames: int | None = None) -> bool | str:
        return verdict(cls, (lambda frames: check_clip_frames(cls, frames), infer_frames))

    @classmethod
    def execute(
        cls, audio_encoder: Any, audio: Any, infer_frames: int = INFER_FRAMES, fps: float = FPS
    ) -> io.NodeOutput:
        from liveavatar_runtime.audio.features import AvatarAudio

        if audio_encoder is None:
            raise InputError(
                "no audio encoder: this model has none of its own. Connect Load Audio Encoder with "
                "wav2vec2_large_english_fp16.safetensors to the audio_encoder input."
            )
        sound = read_audio(audio)
        with voice_told(audio_encoder, sound.waveform, sound.sample_rate):
            features = encode(audio_encoder, sound.waveform, sound.sample_rate, cls.hidden.unique_id)
        encoded = AvatarAudio(features[None], sound.waveform, sound.sample_rate)
        # The features know nothing of these two; only Clip Scheduler's decide the video.
        clips = time.clips_for_frames(encoded.video_frames(time.parse_fps(fps)), infer_frames)
        seconds = time.format_duration(encoded.duration)
        notes = Notes(f"Voice: {seconds}; {clips} clips of {infer_frames} frames at {fps:g} fps cover it")
        notes.warn(*sound.changes)
        return notes.output(encoded, float(encoded.duration), clips)


def voice_told(audio_encoder: Any, waveform: Tensor, sample_rate: int) -> AbstractContextManager[None]:
    """Raises DeviceFullError, with what frees memory, when the device of the encoder or the RAM is full."""
    from liveavatar_runtime.duration import ENCODER_SAMPLE_RATE
    from liveavatar_runtime.out_of_memory import full_device_told
    from liveavatar_runtime.texts import gib

    device = getattr(getattr(audio_encoder, "patcher", None), "load_device", torch.device("cpu"))
    size = waveform.shape[0] * waveform.shape[1] * 4
    mono = size // waveform.shape[0] * ENCODER_SAMPLE_RATE // sample_rate
    others = ["the video in parts with a shorter voice each", f"closing other programs that use {device}"]
    plain = [f"mono sound of 16 kHz ({gib(mono)} instead of {gib(size)})"] if mono < size else []
    # The encoder works on a minute at a time, whatever the length; what grows with it is in RAM.
    lowvram = [] if device.type == "cpu" else ["starting ComfyUI with --lowvram, which encodes on the processor"]
    return full_device_told("encoding the voice", device, lambda: [*lowvram, *others], lambda: [*plain, *others])


def encode(audio_encoder: Any, waveform: Tensor, sample_rate: int, node_id: str) -> Tensor:
    """waveform [C, S] -> hidden states [layers + 1, frames, width] float32 on the CPU, long tracks in windows."""
    from liveavatar_runtime.audio.windows import encode_in_windows

    def all_layers(samples: Tensor, rate: int) -> Tensor:
        layers = audio_encoder.encode_audio(samples[None], rate)["encoded_audio_all_layers"]
        if layers is None:
            raise InputError("this audio encoder gives no hidden states; use a wav2vec2 (wav2vec2_large_english).")
        return torch.cat(tuple(layers)).float().cpu()

    folder = temporary_root()
    progress: list[NodeProgress] = []

    def on_window(done: int, total: int) -> None:
        if not progress:
            progress.append(NodeProgress(node_id, total))
        progress[0].advance_to(done)

    if isinstance(audio_encoder, BundleAudioEncoder):
        return audio_encoder.encode_long(waveform, sample_rate, on_window, folder)
    return encode_in_windows(all_layers, waveform, sample_rate, progress=on_window, folder=folder)
