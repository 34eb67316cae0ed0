"""Duration Calc: the duration formula forwards and backwards, and what a video of that length takes."""

from fractions import Fraction
from typing import TYPE_CHECKING

from comfy_api.latest import io

from liveavatar_runtime import duration as time
from liveavatar_runtime.planning.size_presets import PRESETS

from ..comfy_bridge.duration_notes import VoiceLength, estimates, voice_length
from ..comfy_bridge.notes import KEPT_WHEN_CACHED, Notes
from ..comfy_bridge.validation import check_number, other_widgets, verdict
from .search_words import search_words
from .time_inputs import MAX_CLIPS, check_clip_frames, fps_input, infer_frames_input
from .types import CATEGORY, AudioSocket

if TYPE_CHECKING:
    from liveavatar_runtime.audio.voice import Voice

DURATION, NUM_CLIP = "duration", "num_clip"


class DurationCalc(io.ComfyNode):
    """Length of a video from its number of clips, or the clips that a length needs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveAvatar_DurationCalc",
            display_name="Duration Calc",
            category=CATEGORY,
            description="duration = num_clip * infer_frames / fps, exactly; or the clips that a duration needs.",
            search_aliases=search_words("LiveAvatar_DurationCalc"),
            inputs=[
                io.Combo.Input(
                    "solve_for",
                    options=[DURATION, NUM_CLIP],
                    default=DURATION,
                    tooltip="duration: how long num_clip clips are; num_clip: how many clips cover a duration "
                    "(rounded up).",
                ),
                io.Int.Input(
                    "num_clip",
                    default=10,
                    min=1,
                    max=MAX_CLIPS,
                    tooltip="Number of clips; used when solving for the duration.",
                ),
                infer_frames_input("Video frames of a clip, a multiple of 12; 48 is what the model knows."),
                fps_input("Video frames a second."),
                io.Float.Input(
                    "duration",
                    default=10.0,
                    min=0.0,
                    max=1_000_000.0,
                    step=0.001,
                    tooltip="Seconds to cover; used when solving for num_clip.",
                ),
                io.String.Input(
                    "duration_hms",
                    default="",
                    optional=True,
                    tooltip="Hours:minutes:seconds to cover, such as 1:02:30 or 2:30.5, in place of duration; empty: "
                    "duration counts.",
                ),
                io.Combo.Input(
                    "size",
                    options=list(PRESETS),
                    default="688x368",
                    optional=True,
                    advanced=True,
                    tooltip="Size of the video; only for the estimates of file and time.",
                ),
                io.Int.Input(
                    "steps",
                    default=4,
                    min=1,
                    max=100,
                    optional=True,
                    advanced=True,
                    tooltip="Sampling steps; only for the estimate of time.",
                ),
                io.Audio.Input(
                    "audio",
                    optional=True,
                    tooltip="A voice to cover when solving for num_clip, in place of the durations.",
                ),
                AudioSocket.Input(
                    "avatar_audio", optional=True, tooltip="The same for an encoded voice, from Audio Encode."
                ),
            ],
            outputs=[
                io.Int.Output("clips", display_name="num_clip", tooltip="Number of clips."),
                io.Float.Output("seconds", display_name="duration", tooltip="Seconds of the video."),
                io.Int.Output("frames", display_name="frames", tooltip="Frames of the video."),
                io.String.Output(
                    "hms", display_name="duration_hms", tooltip="The video's length as hours:minutes:seconds."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            **KEPT_WHEN_CACHED,
        )

    @classmethod
    def validate_inputs(cls, infer_frames: int | None = None) -> bool | str:
        (text,) = other_widgets(cls, duration_hms="")
        return verdict(
            cls,
            (lambda frames: check_clip_frames(cls, frames), infer_frames),
            (time.parse_hms, text.strip() or None if text else None),
        )

    @classmethod
    def execute(
        cls,
        solve_for: str,
        num_clip: int,
        infer_frames: int,
        fps: float,
        duration: float,
        duration_hms: str = "",
        size: str = "688x368",
        steps: int = 4,
        audio: object | None = None,
        avatar_audio: "Voice | None" = None,
    ) -> io.NodeOutput:
        check_number(cls, num_clip=num_clip, infer_frames=infer_frames, duration=duration, steps=steps)
        rate, notes = time.parse_fps(fps), Notes()
        voice = voice_length(audio, avatar_audio)
        if solve_for == NUM_CLIP:
            num_clip = _covering(voice, duration_hms.strip() or duration, infer_frames, rate)
        elif voice is not None:
            notes.warn("solve_for is duration, so num_clip counts and the voice does not")
        if solve_for == NUM_CLIP and voice is not None:
            heard = time.format_duration(Fraction(voice.samples, voice.sample_rate))
            shown = time.format_fps(rate)
            notes.tell(f"Voice: {heard}; {num_clip} clips of {infer_frames} frames at {shown} fps cover it")
        seconds, frames = time.duration(num_clip, infer_frames, rate), time.video_frames(num_clip, infer_frames)
        formula = f"{num_clip} x {infer_frames} frames / {time.format_fps(rate)} fps"
        hms = time.format_hms(seconds)
        notes.tell(
            f"{formula} = {time.format_duration(seconds)} ({frames} frames)",
            f"Hours:minutes:seconds: {hms}",
            *estimates({"size": size, "steps": steps, "infer_frames": infer_frames}, frames, float(seconds)),
        )
        return notes.output(num_clip, float(seconds), frames, hms)


def _covering(voice: VoiceLength | None, length: float | str, infer_frames: int, fps: Fraction) -> int:
    """Clips that cover the voice, or the length where there is none."""
    if voice is not None:
        return time.clips_for_frames(time.frames_for_samples(voice.samples, fps, voice.sample_rate), infer_frames)
    seconds = time.parse_hms(length) if isinstance(length, str) else time.parse_seconds(length)
    return time.clips_for_duration(seconds, infer_frames, fps)
