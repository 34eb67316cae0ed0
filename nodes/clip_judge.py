"""Clip Judge: which clips of a finished video look wrong, and why."""

from comfy_api.latest import io, ui

from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.plan_request import PlanRequest

from ..comfy_bridge.clip_judge import AGAIN, EACH, JudgeInputs, judge_video
from ..comfy_bridge.comfy_types import Video
from ..comfy_bridge.notes import Notes
from ..comfy_bridge.validation import verdict
from .search_words import search_words
from .time_inputs import INFER_FRAMES, check_clip_frames, infer_frames_input
from .types import CATEGORY, PlanSocket


class ClipJudge(io.ComfyNode):
    """Reads a video once, however long, and compares its clips with each other, the voice and the picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveAvatar_ClipJudge",
            display_name="Clip Judge",
            category=CATEGORY,
            description="Says which clips of a finished video look wrong: mouth against voice, another person, "
            "colours, sharpness, repeated frames, jumps.",
            search_aliases=search_words("LiveAvatar_ClipJudge"),
            inputs=[
                io.Video.Input("video", tooltip="The video, from Online VAE Decode, Join Segments or Load Video."),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The picture that the video was made from; without it the first clip is what the others "
                    "are compared with.",
                ),
                io.Audio.Input(
                    "audio", optional=True, tooltip="The voice alone, where the video has music or other sounds too."
                ),
                PlanSocket.Input(
                    "plan",
                    optional=True,
                    tooltip="From Clip Scheduler: where the clips begin, and which takes they are. Without it every "
                    "infer_frames frames are a clip.",
                ),
                infer_frames_input("Video frames of a clip, where no plan is connected."),
                io.Combo.Input(
                    "again",
                    options=list(AGAIN),
                    default=EACH,
                    optional=True,
                    tooltip="What takes asks for: each clip that looks wrong alone, or all clips from the first of "
                    "them on.",
                ),
            ],
            outputs=[
                io.String.Output("report", display_name="report", tooltip="Tables in Markdown, by clip."),
                io.Image.Output("chart", display_name="chart", tooltip="All checks of all clips as a picture."),
                io.String.Output(
                    "takes",
                    display_name="takes",
                    tooltip="What to write into takes of Clip Scheduler to have these clips made again.",
                ),
                io.String.Output(
                    "clips", display_name="clips", tooltip="Numbers of the clips that look wrong, such as 3, 7-9."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, infer_frames: int | None = None) -> bool | str:
        return verdict(cls, (lambda frames: check_clip_frames(cls, frames), infer_frames))

    @classmethod
    def execute(
        cls,
        video: Video,
        image: object = None,
        audio: object = None,
        plan: PlanRequest | ClipPlan | None = None,
        infer_frames: int = INFER_FRAMES,
        again: str = EACH,
    ) -> io.NodeOutput:
        notes = Notes()
        found = judge_video(JudgeInputs(video, image, audio, plan), infer_frames, again, cls.hidden.unique_id, notes)
        shown = ui.PreviewImage(found.chart, cls=cls)
        return notes.output(found.judgement.as_markdown(), found.chart, found.takes, found.clips, shown=shown)
