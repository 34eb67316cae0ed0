"""Join Segments: video parts end to end in one file, pictures copied, sound without gaps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_api.latest import InputImpl, io, ui

from liveavatar_runtime.disk import told
from liveavatar_runtime.duration import format_duration
from liveavatar_runtime.errors import InputError

from ..comfy_bridge.audio_input import read_audio
from ..comfy_bridge.folders import temporary_folder
from ..comfy_bridge.notes import Notes
from ..comfy_bridge.output_files import (
    check_output_prefix,
    claimed,
    expanded_prefix,
    lost_files,
    metadata_of,
    output_file,
    remember_file,
)
from ..comfy_bridge.progress import NodeProgress
from ..comfy_bridge.validation import verdict
from .types import CATEGORY

if TYPE_CHECKING:
    from liveavatar_runtime.audio.waveform import Sound

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
                        io.Video.Input("part", tooltip="A part, in the order of the inputs, or a list of them."),
                        names=NAMES,
                        min=1,
                    ),
                    tooltip="Videos or lists of them in their order; another input appears when the last is connected.",
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
            # One file of all videos, also of those that come as a list.
            is_input_list=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: list[str] | None = None, parts: Any = None) -> bool | str:
        # ComfyUI passes growing inputs whether asked for or not.
        return verdict(cls, (check_output_prefix, filename_prefix[0] if filename_prefix else None))

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> int:
        return lost_files(cls.hidden.unique_id)

    @classmethod
    def execute(
        cls,
        parts: Mapping[str, Sequence[Any]],
        filename_prefix: Sequence[str],
        reencode: Sequence[bool] | bool = False,
        audio: Sequence[Any] | None = None,
    ) -> io.NodeOutput:
        notes = Notes()
        sound = None if audio is None else read_audio(the_only(audio, "audio"))
        prefix = expanded_prefix(the_only(filename_prefix, "filename_prefix"), cls.hidden.prompt, notes)
        return cls.joined(videos_of(parts), prefix, the_only(reencode, "reencode"), sound, notes)

    @classmethod
    def joined(
        cls, given: list[tuple[str, Any]], prefix: str, reencode: bool, sound: "Sound | None", notes: Notes
    ) -> io.NodeOutput:
        """The videos, by what messages call them, in one file."""
        from liveavatar_runtime.media.join import join, joined_kind, read_parts, sound_notes
        from liveavatar_runtime.media.parts import check_parts
        from liveavatar_runtime.out_of_memory import ram_told

        node_id = cls.hidden.unique_id
        given_sound = "" if sound is None else "the sound of the parts instead of audio"
        ways = "reencode off" if reencode else "", given_sound, "fewer parts at a time (a joined file can be joined)"
        with ram_told("joining", *ways), temporary_folder() as folder:
            paths = [file_of(video, f"{number}", folder) for number, (_, video) in enumerate(given)]
            found = read_parts(paths, [name for name, _ in given])
            check_parts(found, copy=not reencode)
            first = found[0]
            kind = joined_kind(found)
            path, file, subfolder = output_file(prefix, first.width, first.height, kind.extension)
            progress = NodeProgress(node_id, sum(part.frames for part in found))
            with claimed(path):
                frames = join(
                    found,
                    path,
                    metadata_of(cls.hidden),
                    None if sound is None else (sound.waveform, sound.sample_rate),
                    reencode,
                    lambda done, _: progress.advance_to(done),
                )
        how = "encoded again" if reencode else "copied"
        seconds = format_duration(frames / first.fps)
        warnings, facts = sound_notes(found, with_track=sound is not None)
        notes.warn(*warnings, *(sound.changes if sound else ()))
        notes.tell(f"{file}: {len(found)} parts, {frames} frames ({how}), {seconds}", *facts)
        shown = ui.PreviewVideo([ui.SavedResult(file, subfolder, io.FolderType.output)])
        result = InputImpl.VideoFromFile(str(path))
        remember_file(result, node_id, path)
        return notes.output(result, shown=shown)


def the_only(values: Any, name: str) -> Any:
    """The value of an input, which comes as a list unless it is left out.

    Raises InputError for a list of several: one file is written.
    """
    if not isinstance(values, list):
        return values
    if len(values) != 1:
        raise InputError(f"{name} holds {len(values)} values; one file is made of all videos, so give one {name}.")
    return values[0]


def videos_of(parts: Mapping[str, Sequence[Any]]) -> list[tuple[str, Any]]:
    """The videos in the order of the inputs and of the lists in them, each with what messages call it.

    Raises InputError when there is none.
    """
    given: list[tuple[str, Any]] = []
    for name in NAMES:
        videos = [video for video in parts.get(name) or () if video is not None]
        names = [name] if len(videos) == 1 else [f"{name}, video {number}" for number in range(1, len(videos) + 1)]
        given += zip(names, videos, strict=True)
    if not given:
        raise InputError("there are no videos to join. Connect at least one to part_1.")
    return given


def file_of(video: Any, name: str, folder: Path) -> Path:
    """The file of a VIDEO; one that is not a whole file (images, a trimmed video) is saved to `folder` first."""
    window = getattr(video, "get_active_trim_window", None)
    source = video.get_stream_source()
    if isinstance(source, str) and window is not None and not any(window()):
        return Path(source)
    path = folder / f"{name}.mp4"
    with told("a part that is no file of its own cannot be saved to", path):
        if window is not None and not any(window()) and not isinstance(source, str):
            path.write_bytes(source.getvalue())
        else:
            video.save_to(str(path))
    return path
