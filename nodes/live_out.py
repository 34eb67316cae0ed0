"""Live Out: the blocks of a live voice as a stream that many can watch, and a recording if it is wanted."""

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..comfy_bridge.avatar import AvatarLatents
from ..comfy_bridge.comfy_types import Vae
from ..comfy_bridge.live.latents import LiveLatents, live
from ..comfy_bridge.live.out import OutSettings, check_no_other, check_push, show_live
from ..comfy_bridge.notes import Notes
from ..comfy_bridge.output_files import check_output_prefix
from ..comfy_bridge.validation import consumers, other_widgets, verdict
from .search_words import search_words
from .types import CATEGORY, LatentsSocket

NOT_RECORDED = "The video output of Live Out is off. Turn on record there to use it."


class LiveOut(io.ComfyNode):
    """Runs a live session until it is stopped, and shows it on its page, in this node and to players (HLS)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveAvatar_LiveOut",
            display_name="Live Out",
            category=CATEGORY,
            description="Shows the video of a live voice while it is made: in this node, on the live page, in players "
            "(HLS), on streaming servers (RTMP). Runs until it is stopped.",
            search_aliases=search_words("LiveAvatar_LiveOut"),
            inputs=[
                LatentsSocket.Input("latents", tooltip="From DiT Sampler with Live Voice."),
                io.Vae.Input(
                    "vae",
                    tooltip="Wan 2.1 VAE; or a faster one for the same latents: lightvaew2_1, taew2_1, lighttaew2_1.",
                ),
                io.Boolean.Input(
                    "record",
                    default=False,
                    optional=True,
                    tooltip="Also write the video to a file in the output folder, which grows as long as the session "
                    "runs.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="LiveAvatar/live",
                    optional=True,
                    advanced=True,
                    tooltip="Path of the recording in the output folder, without counter and file extension.",
                ),
                io.Int.Input(
                    "crf",
                    default=23,
                    min=0,
                    max=51,
                    optional=True,
                    advanced=True,
                    tooltip="Quality of what viewers see: lower means better and more bytes. The recording has 18.",
                ),
                io.String.Input(
                    "push",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Name of a streaming server (RTMP) in push_targets.json of ComfyUI's user folder. Empty: "
                    "none.",
                ),
            ],
            outputs=[
                io.Video.Output("video", display_name="video", tooltip="The recording, with record on."),
                io.String.Output(
                    "report", display_name="report", tooltip="How late the video was, and why, in Markdown."
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, push: str | None = None) -> bool | str:
        prefix, record = other_widgets(cls, filename_prefix="LiveAvatar/live", record=False)
        users = consumers(cls.hidden.unique_id, 0) if record is False else []
        return verdict(
            cls, (check_push, push), (check_output_prefix, prefix), (refuse_users, users), (check_no_other, True)
        )

    @classmethod
    def fingerprint_inputs(cls, **_: object) -> float:
        """Never equal: each run is another session."""
        return float("nan")

    @classmethod
    def execute(
        cls,
        latents: AvatarLatents | LiveLatents,
        vae: Vae | None,
        record: bool = False,
        filename_prefix: str = "LiveAvatar/live",
        crf: int = 23,
        push: str = "",
    ) -> io.NodeOutput:
        notes = Notes()
        settings = OutSettings(record, filename_prefix, crf, push)
        shown = show_live(live(latents), vae, settings, cls.hidden, notes)
        video = ExecutionBlocker(NOT_RECORDED) if shown.video is None else shown.video
        return notes.output(video, shown.report, shown=shown.preview)


def refuse_users(titles: list[str]) -> None:
    """Raises InputError when nodes want the recording, which is off."""
    from liveavatar_runtime.errors import InputError

    if titles:
        raise InputError(f"video is connected to {', '.join(titles)}, but record is off. Turn on record.")
