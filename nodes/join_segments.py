"""Join Segments: video parts end to end in one file, pictures copied, sound without gaps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comfy_api.latest import InputImpl, io, ui

from ..liveavatar_runtime.planning.duration import format_duration
from . import comfy_bridge as bridge
from .audio_input import read_audio
from .notes import Notes
from .types import CATEGORY
from .validation import verdict

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
            description="Joins video parts to one file without encoding the picture again; the sound has no gaps.",
            search_aliases=["concat videos", "merge videos", "long video"],
            inputs=[
                io.Autogrow.Input(
                    "parts",
                    template=io.Autogrow.TemplateNames(
                        io.Video.Input("part", tooltip="A part, in the order of the inputs."), names=NAMES, min=2
                    ),
                    tooltip="The videos in their order; another input appears when the last one is connected.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="LiveAvatar/joined",
                    tooltip="Path of the file in the output folder, without number and ending.",
                ),
                io.Boolean.Input(
                    "reencode",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Encode the pictures again, for parts of different codecs; costs time and some quality.",
                ),
                io.Audio.Input(
                    "audio",
                    optional=True,
                    tooltip="The whole sound track; without it the sound of the parts is joined.",
                ),
            ],
            outputs=[io.Video.Output("video", display_name="video", tooltip="The file that was written.")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None, parts: Any = None) -> bool | str:
        # ComfyUI passes growing inputs whether asked for or not.
        return verdict((bridge.check_output_prefix, filename_prefix))

    @classmethod
    def execute(
        cls, parts: Mapping[str, Any], filename_prefix: str, reencode: bool = False, audio: Any = None
    ) -> io.NodeOutput:
        from ..liveavatar_runtime.media.join import join, joined_kind, read_parts
        from ..liveavatar_runtime.media.parts import check_parts

        node_id = cls.hidden.unique_id
        sound = None if audio is None else read_audio(audio)
        given = [(name, parts[name]) for name in NAMES if parts.get(name) is not None]
        with bridge.temporary_folder() as folder:
            paths = [file_of(video, name, folder) for name, video in given]
            found = read_parts(paths, [name for name, _ in given])
            check_parts(found, copy=not reencode)
            first = found[0]
            kind = joined_kind(found)
            path, file, subfolder = bridge.output_file(filename_prefix, first.width, first.height, kind.extension)
            progress = bridge.NodeProgress(node_id, sum(part.frames for part in found))
            with bridge.claimed(path):
                frames = join(
                    found,
                    path,
                    bridge.metadata_of(cls.hidden),
                    None if sound is None else (sound.waveform, sound.sample_rate),
                    reencode,
                    lambda done, _: progress.advance_to(done),
                )
        how = "encoded again" if reencode else "copied"
        seconds = format_duration(frames / first.fps)
        notes = Notes(f"{file}: {len(found)} parts, {frames} frames ({how}), {seconds}")
        notes.warn(*(sound.changes if sound else ()))
        shown = ui.PreviewVideo([ui.SavedResult(file, subfolder, io.FolderType.output)])
        return notes.output(InputImpl.VideoFromFile(str(path)), shown=shown)


def file_of(video: Any, name: str, folder: Path) -> Path:
    """The file of a VIDEO; one that is not a whole file (images, a trimmed video) is saved to `folder` first."""
    window = getattr(video, "get_active_trim_window", None)
    source = video.get_stream_source()
    if isinstance(source, str) and window is not None and not any(window()):
        return Path(source)
    path = folder / f"{name}.mp4"
    if window is not None and not any(window()) and not isinstance(source, str):
        path.write_bytes(source.getvalue())
    else:
        video.save_to(str(path))
    return path
