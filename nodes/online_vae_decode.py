"""Online VAE Decode: latent blocks to a video file with sound, block by block, while they are sampled."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from liveavatar_runtime.errors import InputError
from liveavatar_runtime.media.codecs import AUTO, CODECS, PIXEL_FORMATS, video_format

from ..comfy_bridge.avatar import AvatarLatents
from ..comfy_bridge.comfy_types import PromptNode, Vae
from ..comfy_bridge.decoder_choice import DECODERS
from ..comfy_bridge.finishing import NO_FINISHING, Finishing
from ..comfy_bridge.live.latents import LiveLatents, recorded
from ..comfy_bridge.notes import Notes
from ..comfy_bridge.output_files import check_output_prefix, lost_files
from ..comfy_bridge.validation import chain_before, consumers, other_widgets, verdict
from ..comfy_bridge.video_output import VideoSettings, write_video
from .finish_background import TRANSPARENT, FinishBackground
from .search_words import search_words
from .types import CATEGORY, FinishingSocket, LatentsSocket

if TYPE_CHECKING:
    from liveavatar_runtime.vae.online_decoder import VideoStart

FRAMES_OUTPUT = 2
"""Place of the frames among the outputs."""
FRAMES_OFF = "The frames output of Online VAE Decode is off. Turn on return_frames there to use it."


class OnlineVAEDecode(io.ComfyNode):
    """Decodes block by block and writes the video at once, so memory does not grow with its length."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveAvatar_OnlineVAEDecode",
            display_name="Online VAE Decode",
            category=CATEGORY,
            description="Decodes the latent blocks and writes them with the voice to a video, while they are "
            "sampled; memory does not grow with the length.",
            search_aliases=search_words("LiveAvatar_OnlineVAEDecode"),
            inputs=[
                LatentsSocket.Input("latents", tooltip="From DiT Sampler."),
                io.Vae.Input(
                    "vae",
                    tooltip="Wan 2.1 VAE; or a faster one for the same latents: lightvaew2_1, taew2_1, lighttaew2_1.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="LiveAvatar/avatar",
                    tooltip="Path of the file in the output folder, without counter and file extension; existing "
                    "files are never overwritten.",
                ),
                io.Int.Input(
                    "crf",
                    default=18,
                    min=0,
                    max=63,
                    tooltip="Quality of the video: lower means better quality and a larger file; up to 51, for vp9 "
                    "and av1 up to 63.",
                ),
                io.Boolean.Input(
                    "return_frames",
                    default=False,
                    tooltip="Also give all frames as images; they stay in memory, so only up to 100 clips. Leave it "
                    "off for long videos.",
                ),
                io.Combo.Input(
                    "start",
                    options=["hold", "trim"],
                    default="hold",
                    optional=True,
                    advanced=True,
                    tooltip="The first 3 frames can't be decoded: repeat the 4th (hold), or cut them with their "
                    "sound (trim).",
                ),
                io.Combo.Input(
                    "codec",
                    options=list(CODECS),
                    default="h264",
                    optional=True,
                    advanced=True,
                    tooltip="h264 plays everywhere; hevc and av1 are smaller; vp9 is WebM; ffv1 is lossless (MKV).",
                ),
                io.Combo.Input(
                    "pixel_format",
                    options=[AUTO, *PIXEL_FORMATS],
                    default=AUTO,
                    optional=True,
                    advanced=True,
                    tooltip="auto suits players (ffv1: rgb) and transparency; yuv444p keeps sharp colours, the 10-bit "
                    "formats avoid banding.",
                ),
                io.Combo.Input(
                    "decoder",
                    options=list(DECODERS),
                    default=AUTO,
                    optional=True,
                    advanced=True,
                    tooltip="Where to decode: in ComfyUI (comfyui), or on workers that hold the same VAE; auto "
                    "prefers those.",
                ),
                io.Boolean.Input(
                    "report",
                    default=True,
                    optional=True,
                    advanced=True,
                    tooltip="Write a JSON file beside the video: settings, versions, times of all stages, memory. It "
                    "never holds the prompt.",
                ),
                FinishingSocket.Input(
                    "finishing",
                    optional=True,
                    tooltip="Steps on each frame before it is written, from the Finish nodes: larger, other colours, "
                    "another background, more frames a second.",
                ),
                io.Boolean.Input(
                    "judge",
                    default=True,
                    optional=True,
                    advanced=True,
                    tooltip="Look through the clips while they are decoded, as Clip Judge does, for the report and for "
                    "the marks below the video.",
                ),
            ],
            outputs=[
                io.Video.Output("video", display_name="video", tooltip="The file that was written."),
                io.Image.Output(
                    "last_frame",
                    display_name="last_frame",
                    tooltip="The last frame, to start another video from; segments of one plan don't need it.",
                ),
                io.Image.Output("frames", display_name="frames", tooltip="All frames, with return_frames on."),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="Tables in Markdown: times, what held the run up, memory, settings.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        node_id = cls.hidden.unique_id
        codec, pixel_format, crf = other_widgets(cls, codec="h264", pixel_format=AUTO, crf=18)
        # What is in no list is told by ComfyUI.
        known = codec in CODECS and pixel_format in (AUTO, *PIXEL_FORMATS)
        choice = (codec, pixel_format, crf, makes_alpha(chain_before(node_id, "finishing"))) if known else None
        (frames,) = other_widgets(cls, return_frames=False)
        users = consumers(node_id, FRAMES_OUTPUT) if frames is False else []
        return verdict(
            cls,
            (check_output_prefix, filename_prefix),
            (lambda names: video_format(*names), choice),
            (refuse_users, users),
        )

    @classmethod
    def fingerprint_inputs(cls, **_: object) -> int:
        return lost_files(cls.hidden.unique_id)

    @classmethod
    def execute(
        cls,
        latents: AvatarLatents | LiveLatents,
        vae: Vae | None,
        filename_prefix: str,
        crf: int,
        return_frames: bool,
        start: "VideoStart" = "hold",
        codec: str = "h264",
        pixel_format: str = AUTO,
        decoder: str = AUTO,
        report: bool = True,
        finishing: Finishing | None = None,
        judge: bool = True,
    ) -> io.NodeOutput:
        widgets = filename_prefix, codec, pixel_format, crf, start, return_frames, decoder, report
        settings = VideoSettings(*widgets, finishing or NO_FINISHING, judge)
        notes = Notes()
        written = write_video(recorded(latents), vae, settings, cls.hidden, notes)
        frames = written.frames if return_frames else ExecutionBlocker(FRAMES_OFF)
        return notes.output(written.video, written.last_frame[None], frames, written.report, shown=written.shown)


def makes_alpha(nodes: Iterable[PromptNode]) -> bool:
    """Whether the finishing of these nodes makes frames transparent, as far as their widgets tell."""
    backgrounds = [node["inputs"] for node in nodes if node["class_type"] == FinishBackground.define_schema().node_id]
    return any(inputs.get("behind", TRANSPARENT) == TRANSPARENT for inputs in backgrounds)


def refuse_users(titles: list[str]) -> None:
    """Raises InputError when nodes want the frames, whose output is off."""
    if titles:
        raise InputError(
            f"frames is connected to {', '.join(titles)}, but return_frames is off. Turn on return_frames, or "
            "disconnect frames and use video."
        )
