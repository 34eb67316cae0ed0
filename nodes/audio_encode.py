"""Audio Encode: a voice track to the features that drive the face."""

from comfy_api.latest import io

from liveavatar_runtime import duration as time

from ..comfy_bridge.comfy_types import AudioEncoder
from ..comfy_bridge.notes import KEPT_WHEN_CACHED, Notes
from ..comfy_bridge.validation import verdict
from ..comfy_bridge.voice import BOUNDED, CONTEXTS, WHOLE, Context, encode_voice
from .search_words import search_words
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
            description="Encodes a voice track to the features that drive lips and face; also gives its length "
            "and the clips it needs.",
            search_aliases=search_words("LiveAvatar_AudioEncode"),
            inputs=[
                io.AudioEncoder.Input(
                    "audio_encoder", tooltip="wav2vec2 of Load Avatar Model or of Load Audio Encoder."
                ),
                io.Audio.Input("audio", tooltip="The voice; any sample rate. More than two channels are mixed."),
                infer_frames_input(
                    "Video frames of a clip, as in Clip Scheduler; only counts for the num_clip output.",
                    optional=True,
                    advanced=True,
                ),
                fps_input(
                    "Video frames a second, as in Clip Scheduler; only counts for the num_clip output.",
                    optional=True,
                    advanced=True,
                ),
                io.Combo.Input(
                    "context",
                    options=list(CONTEXTS),
                    default=WHOLE,
                    optional=True,
                    advanced=True,
                    tooltip="What a moment of the voice hears. whole: all of it, a minute at a time if it is long. "
                    "bounded: the seconds around it, so that a longer voice continues the same video.",
                ),
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
        cls,
        audio_encoder: AudioEncoder | None,
        audio: object,
        infer_frames: int = INFER_FRAMES,
        fps: float = FPS,
        context: Context = WHOLE,
    ) -> io.NodeOutput:
        notes = Notes()
        encoded = encode_voice(audio_encoder, audio, cls.hidden, notes, context)
        if context == BOUNDED:
            settled = time.format_duration(encoded.settled_duration)
            notes.tell(
                f"context bounded: a longer voice continues the video; the first {settled} of it stay as they are"
            )
        # The features know nothing of these two; only Clip Scheduler's decide the video.
        rate = time.parse_fps(fps)
        clips = time.clips_for_frames(encoded.video_frames(rate), infer_frames)
        seconds = time.format_duration(encoded.duration)
        shown = time.format_fps(rate)
        notes.tell(f"Voice: {seconds}; {clips} clips of {infer_frames} frames at {shown} fps cover it")
        return notes.output(encoded, float(encoded.duration), clips)
