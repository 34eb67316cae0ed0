"""Duration Calc: the duration formula forwards and backwards."""

from comfy_api.latest import io

from liveavatar_runtime import duration as time

from ..comfy_bridge.notes import KEPT_WHEN_CACHED, Notes
from ..comfy_bridge.validation import check_number, verdict
from .search_words import search_words
from .time_inputs import MAX_CLIPS, check_clip_frames, fps_input, infer_frames_input
from .types import CATEGORY

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
            ],
            outputs=[
                io.Int.Output("clips", display_name="num_clip", tooltip="Number of clips."),
                io.Float.Output("seconds", display_name="duration", tooltip="Seconds of the video."),
                io.Int.Output("frames", display_name="frames", tooltip="Frames of the video."),
            ],
            hidden=[io.Hidden.unique_id],
            **KEPT_WHEN_CACHED,
        )

    @classmethod
    def validate_inputs(cls, infer_frames: int | None = None) -> bool | str:
        return verdict(cls, (lambda frames: check_clip_frames(cls, frames), infer_frames))

    @classmethod
    def execute(cls, solve_for: str, num_clip: int, infer_frames: int, fps: float, duration: float) -> io.NodeOutput:
        check_number(cls, num_clip=num_clip, infer_frames=infer_frames, duration=duration)
        rate = time.parse_fps(fps)
        if solve_for == NUM_CLIP:
            num_clip = time.clips_for_duration(time.parse_seconds(duration), infer_frames, rate)
        seconds, frames = time.duration(num_clip, infer_frames, rate), time.video_frames(num_clip, infer_frames)
        formula = f"{num_clip} x {infer_frames} frames / {time.format_fps(rate)} fps"
        notes = Notes(f"{formula} = {time.format_duration(seconds)} ({frames} frames)")
        return notes.output(num_clip, float(seconds), frames)
