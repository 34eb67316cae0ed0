"""Join Segments: video parts end to end in one file, pictures copied, sound without gaps."""

from collections.abc import Mapping, Sequence

from comfy_api.latest import io

from ..comfy_bridge.audio_input import read_audio
from ..comfy_bridge.comfy_types import Video
from ..comfy_bridge.notes import Notes
from ..comfy_bridge.output_files import check_output_prefix, expanded_prefix, lost_files
from ..comfy_bridge.validation import verdict
from ..comfy_bridge.video_join import JoinSettings, join_videos, the_only, videos_of
from .search_words import search_words
from .types import CATEGORY

MAX_PARTS = 100
NAMES = [f"part_{number}" for number in range(1, MAX_PARTS + 1)]


class JoinSegments(io.ComfyNode):
    """Joins videos without encoding their pictures again; what was joined can be joined again, for any number."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LiveAvatar_JoinSegments",
            display_name="Join Segments",
            category=CATEGORY,
            description="Joins video segments end to end in one file: pictures copied, not encoded again, and "
            "the sound without gaps.",
            search_aliases=search_words("LiveAvatar_JoinSegments"),
            inputs=[
                io.Autogrow.Input(
                    "parts",
                    template=io.Autogrow.TemplateNames(
                        io.Video.Input("part", tooltip="A part, in the order of the inputs, or a list of them."),
                        names=NAMES,
                        min=1,
                    ),
                    tooltip="Videos or lists of them, in their order; another input appears when the last one is "
                    "connected.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="LiveAvatar/joined",
                    tooltip="Path of the file in the output folder, without counter and file extension; existing "
                    "files are never overwritten.",
                ),
                io.Boolean.Input(
                    "reencode",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Encode the pictures again, for segments of different codecs; slower, with some loss of "
                    "quality.",
                ),
                io.Audio.Input(
                    "audio",
                    optional=True,
                    tooltip="The whole sound track; without it the sound of the segments is joined.",
                ),
            ],
            outputs=[io.Video.Output("video", display_name="video", tooltip="The file that was written.")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
            # One file of all videos, also of those that come as a list.
            is_input_list=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: list[str] | None = None, parts: object = None) -> bool | str:
        # ComfyUI passes growing inputs whether asked for or not.
        return verdict(cls, (check_output_prefix, filename_prefix[0] if filename_prefix else None))

    @classmethod
    def fingerprint_inputs(cls, **_: object) -> int:
        return lost_files(cls.hidden.unique_id)

    @classmethod
    def execute(
        cls,
        parts: Mapping[str, Sequence[Video | None]],
        filename_prefix: Sequence[str],
        reencode: Sequence[bool] | bool = False,
        audio: Sequence[object] | None = None,
    ) -> io.NodeOutput:
        notes = Notes()
        sound = None if audio is None else read_audio(the_only(audio, "audio"))
        prefix = expanded_prefix(the_only(filename_prefix, "filename_prefix"), cls.hidden.prompt, notes)
        settings = JoinSettings(prefix, the_only(reencode, "reencode"), sound)
        file = join_videos(videos_of(parts, NAMES), settings, cls.hidden, notes)
        return notes.output(file.as_video(cls.hidden.unique_id), shown=file.shown())
