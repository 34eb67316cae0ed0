"""Join Segments at work: videos end to end in one file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from liveavatar_runtime.disk import told
from liveavatar_runtime.duration import format_duration
from liveavatar_runtime.errors import InputError

from .comfy_types import Hidden, Video
from .folders import temporary_folder
from .notes import Notes
from .output_files import OutputFile, claimed, metadata_of, output_file
from .progress import NodeProgress

if TYPE_CHECKING:
    from liveavatar_runtime.audio.waveform import Sound
    from liveavatar_runtime.media.parts import Part

Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class JoinSettings:
    """Of the file: expanded prefix, whether its pictures are encoded anew, and the sound in place of the parts'."""

    prefix: str
    reencode: bool
    sound: "Sound | None"

    def ways(self) -> tuple[str, ...]:
        """What needs less memory."""
        own_sound = "" if self.sound is None else "the sound of the parts instead of audio"
        fewer = "fewer parts at a time (a joined file can be joined)"
        return "reencode off" if self.reencode else "", own_sound, fewer


def join_videos(
    videos: Sequence[tuple[str, Video]], settings: JoinSettings, hidden: Hidden, notes: Notes
) -> OutputFile:
    """The videos, by what messages call them, in one file; the notes say what became of them.

    Raises InputError for parts that do not fit together.
    """
    from liveavatar_runtime.media.join import read_parts, sound_notes
    from liveavatar_runtime.media.parts import check_parts
    from liveavatar_runtime.out_of_memory import ram_told

    with ram_told("joining", *settings.ways()), temporary_folder() as folder:
        paths = [file_of(video, f"{number}", folder) for number, (_, video) in enumerate(videos)]
        parts = read_parts(paths, [name for name, _ in videos])
        check_parts(parts, copy=not settings.reencode)
        file, frames = _joined(parts, settings, hidden)
    how = "encoded again" if settings.reencode else "copied"
    seconds = format_duration(frames / parts[0].fps)
    warnings, facts = sound_notes(parts, with_track=settings.sound is not None)
    notes.warn(*warnings, *(settings.sound.changes if settings.sound else ()))
    notes.tell(f"{file.name}: {len(parts)} parts, {frames} frames ({how}), {seconds}", *facts)
    return file


def _joined(parts: "Sequence[Part]", settings: JoinSettings, hidden: Hidden) -> tuple[OutputFile, int]:
    """The file, and its number of frames."""
    from liveavatar_runtime.media.join import Joining, join, joined_kind

    file = output_file(settings.prefix, parts[0].width, parts[0].height, joined_kind(parts).extension)
    progress = NodeProgress(hidden.unique_id, sum(part.frames for part in parts))
    sound = settings.sound
    track = None if sound is None else (sound.waveform, sound.sample_rate)
    with claimed(file.path):
        how = Joining(metadata_of(hidden), track, settings.reencode, lambda done, _: progress.advance_to(done))
        frames = join(parts, file.path, how)
    return file, frames


def the_only(values: Sequence[Value] | Value, name: str) -> Value:
    """The value of an input, which comes as a list unless it is left out.

    Raises InputError for a list of several: one file is written.
    """
    if not isinstance(values, list):
        return cast(Value, values)
    if len(values) != 1:
        raise InputError(f"{name} holds {len(values)} values; one file is made of all videos, so give one {name}.")
    return values[0]


def videos_of(parts: Mapping[str, Sequence[Video | None]], inputs: Sequence[str]) -> list[tuple[str, Video]]:
    """The videos in the order of the inputs and of the lists in them, each with what messages call it.

    Raises InputError when there is none.
    """
    given: list[tuple[str, Video]] = []
    for name in inputs:
        videos = [video for video in parts.get(name) or () if video is not None]
        names = [name] if len(videos) == 1 else [f"{name}, video {number}" for number in range(1, len(videos) + 1)]
        given += zip(names, videos, strict=True)
    if not given:
        raise InputError("there are no videos to join. Connect at least one to part_1.")
    return given


def file_of(video: Video, name: str, folder: Path) -> Path:
    """The file of a VIDEO; one that is not a whole file (images, a trimmed video) is saved to `folder` first."""
    window = getattr(video, "get_active_trim_window", None)
    source = video.get_stream_source()
    if isinstance(source, str) and window is not None and not any(window()):
        return Path(source)
    path = folder / f"{name}.mp4"
    with told("a part that is no file of its own cannot be saved to {place}", path):
        if window is not None and not any(window()) and not isinstance(source, str):
            path.write_bytes(source.getvalue())
        else:
            video.save_to(str(path))
    return path
