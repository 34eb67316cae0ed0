"""Joins video files end to end: the pictures are copied as they are encoded, the sound becomes one track.

Encoded sound cannot be copied end to end: AAC and Opus work in packets of 1024 and 960 samples with a start that is
hidden and an end that is padded, so that copies leave a gap of some 20 ms at every join. Here the sound of each part is
decoded to exactly the samples that belong to its frames, and the whole is encoded once. Given the original track, the
sound is encoded from that and knows nothing of the joins.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..disk import what_to_do
from ..duration import samples_for_frames
from ..errors import InputError, MachineError, on_failure, reason_of, replaced
from ..out_of_memory import encoder_full, is_out_of_memory
from .codecs import AUTO, CODECS, MATROSKA, PIXEL_FORMATS, FileKind
from .copying import copied_stream
from .frames import FrameDecoder, opened, rgb_of, rgba_of
from .growing_file import GrowingFile
from .parts import Part, PartSound, check_parts, read_part, sound_stream
from .sound import LAYOUTS, SoundTrack, check_sound
from .video import AudioTrack, PictureTrack, Unfinished, VideoWriter

OnFrames = Callable[[int, int], None]
"""Called as (frames done, frames in all), now and then; may raise to stop."""
Track = tuple[torch.Tensor, int]
"""Sound [C, S] and its sample rate."""
REPORT_FRAMES = 64
REMOVED = "What was written of it was removed."


def read_parts(paths: Sequence[str | Path], names: Sequence[str] | None = None) -> list[Part]:
    """The parts in their order; `names` is how messages call them. Raises InputError for what is not a video."""
    names = names or [f"part {number}" for number in range(1, len(paths) + 1)]
    return [read_part(name, path) for name, path in zip(names, paths, strict=True)]


def joined_kind(parts: Sequence[Part]) -> FileKind:
    """The kind of file that takes the parts' pictures as they are."""
    return next((codec.kind for name, codec in CODECS.items() if name == parts[0].codec), MATROSKA)


@dataclass(frozen=True)
class Joining:
    """How parts become one file. track: the sound of the whole instead of the parts' own; shorter is filled up with
    silence, longer is cut. metadata: texts; the first part's are kept where these have no such name. reencode: encode
    the pictures again, with the first part's codec where it is one of `CODECS` and H.264 otherwise. on_frames: called
    with the frames done and the frames in all."""

    metadata: Mapping[str, str] = field(default_factory=dict)
    track: Track | None = None
    reencode: bool = False
    on_frames: OnFrames = lambda done, total: None


AS_THEY_ARE = Joining()


def join(parts: Sequence[Part], path: str | Path, how: Joining = AS_THEY_ARE) -> int:
    """Writes the parts behind each other to `path`; returns the number of frames.

    The file has exactly the parts' frames, evenly timed, and sound for exactly that time.

    Raises InputError for parts that do not fit together, MachineError when the file cannot be written; then no file
    is left.
    """
    check_parts(parts, copy=not how.reencode)
    how = replace(how, metadata={**_kept_metadata(parts[0].metadata), **how.metadata})
    path = Path(path)
    if how.reencode:
        # The writer removes its own file when it fails.
        with _writing(path):
            _encode(parts, path, how)
        return sum(part.frames for part in parts)
    file = _begun(path)
    with on_failure(file.remove), _writing(path):
        _copy(parts, file, how)
    return sum(part.frames for part in parts)


def _kept_metadata(found: Mapping[str, str]) -> dict[str, str]:
    """Without what describes the old file itself. Matroska spells names in capitals."""
    own = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration"}
    return {name.lower(): text for name, text in found.items() if name.lower() not in own}


def _writing(path: Path) -> AbstractContextManager[None]:
    from av.error import FFmpegError

    def failure(error: FFmpegError) -> MachineError:
        if is_out_of_memory(error):
            return encoder_full(f"{path.name} could not be written", "of the sound", error, REMOVED)
        return _refused(path, error)

    return replaced(FFmpegError, failure)


def _begun(path: Path) -> GrowingFile:
    with replaced(OSError, partial(_refused, path)):
        path.touch()
        return GrowingFile(path)


def _refused(path: Path, error: Exception) -> MachineError:
    return MachineError(f"{path} could not be written: {reason_of(error)}. {REMOVED} {what_to_do(error)}")


def _sound_format(parts: Sequence[Part], track: Track | None) -> tuple[int, int] | None:
    """Sample rate and channels of the joined sound; None for a silent file."""
    if track is not None:
        sound, rate = track
        if sound.ndim != 2:
            raise InputError(f"The sound is {list(sound.shape)}; it must be [channels, samples].")
        check_sound(rate, sound.shape[0])
        return rate, sound.shape[0]
    rates, channels = ([value for value in values if value] for values in _sounds(parts))
    # Nothing is lost where the parts differ.
    return (max(rates), min(max(channels), max(LAYOUTS))) if rates and channels else None


def _sounds(parts: Sequence[Part]) -> tuple[list[int | None], list[int | None]]:
    """Sample rates and numbers of channels; None for parts without sound."""
    return [part.sample_rate for part in parts], [part.channels for part in parts]


def sound_notes(parts: Sequence[Part], with_track: bool) -> tuple[list[str], list[str]]:
    """What to tell about the joined sound: warnings and facts. `with_track`: it is a given one, not the parts'."""
    found = None if with_track else _sound_format(parts, None)
    if found is None:
        return [], [] if with_track else ["No part has sound, so the file has none"]
    silent = [part.name for part in parts if not part.sample_rate]
    warnings = [f"{', '.join(silent)} has no sound: it is silent there."] if silent else []
    rate, channels = found
    differ = any(len({value for value in values if value}) > 1 for values in _sounds(parts))
    kind = {1: "mono", 2: "stereo"}[channels]
    return warnings, [f"The sound of the parts differs; it became {kind} of {rate} Hz"] if differ else []


def _copy(parts: Sequence[Part], file: GrowingFile, how: Joining) -> None:
    import av

    kind, fps = joined_kind(parts), parts[0].fps
    sound_format = _sound_format(parts, how.track)
    total = sum(part.frames for part in parts)
    with av.open(str(file.path), "w", format=kind.muxer, options=kind.finished_options()) as target:
        target.metadata.update(how.metadata)
        with opened(parts[0].path) as template:
            picture = copied_stream(target, template.streams.video[0])
        picture.time_base = 1 / fps
        sound = SoundTrack(target, *sound_format, kind.sound) if sound_format else None
        copier = _Copier(_Streams(target, file, picture, sound), fps, lambda done: how.on_frames(done, total))
        if sound is not None and how.track is not None:
            sound.append(how.track[0].detach().cpu().float().numpy())
        for part in parts:
            copier.append(part, own_sound=how.track is None)
        copier.finish()
    file.grew()


@dataclass(frozen=True)
class _Streams:
    """An open file, PyAV's container of it, and what is in it."""

    target: Any
    file: GrowingFile
    picture: Any
    sound: SoundTrack | None


class _Copier:
    """Puts parts into an open file, pictures copied, sound encoded. `report` is told the frames done."""

    def __init__(self, streams: _Streams, fps: Fraction, report: Callable[[int], None]) -> None:
        self._streams, self._sound, self._fps, self._report = streams, streams.sound, fps, report
        self._frames = 0
        """Of the parts that are done."""

    def append(self, part: Part, own_sound: bool) -> None:
        first, done = self._frames, 0
        with opened(part.path) as source:
            streams: list[Any] = [source.streams.video[0]]
            placed = self._place(part) if own_sound and part.sample_rate else None
            if placed is not None:
                streams.append(sound_stream(source))
            for packet in source.demux(streams):
                if packet.stream_index == streams[0].index:
                    if packet.size:
                        done += 1
                        self._copy(packet, part, first)
                        self._write_sound(first + done)
                        if done % REPORT_FRAMES == 0:
                            self._report(first + done)
                elif placed is not None and self._sound is not None:
                    for frame in packet.decode():
                        self._sound.append(placed.of_frame(frame))
        if done != part.frames:
            raise _changed(part, done)
        self._frames = first + done
        if placed is not None and self._sound is not None:
            self._sound.append(placed.rest())
        self._write_sound(self._frames, fill=True)
        self._report(self._frames)

    def finish(self) -> None:
        """The end of the sound."""
        if self._sound is not None:
            for frame in [*self._sound.rest(), None]:
                self._mux(self._sound.stream.encode(frame))

    def _place(self, part: Part) -> PartSound | None:
        """Where the part's sound goes: from the first sample of its frames to the last."""
        if self._sound is None:
            return None
        rate = self._sound.sample_rate
        begin, end = (samples_for_frames(n, self._fps, rate) for n in (self._frames, self._frames + part.frames))
        return PartSound(part.start, end - begin, rate, self._sound.channels)

    def _copy(self, packet: Any, part: Part, first: int) -> None:
        """A packet at its exact place: frame numbers are the clock."""
        pts, dts = (
            first + round((time * packet.time_base - part.start) * self._fps)
            for time in (packet.pts, packet.dts if packet.dts is not None else packet.pts)
        )
        packet.stream = self._streams.picture
        packet.time_base = 1 / self._fps
        packet.pts, packet.dts, packet.duration = pts, dts, 1
        self._mux(packet)

    def _write_sound(self, frames: int, fill: bool = False) -> None:
        if self._sound is not None:
            end = samples_for_frames(frames, self._fps, self._sound.sample_rate)
            for frame in self._sound.frames_until(end, fill):
                self._mux(self._sound.stream.encode(frame))

    def _mux(self, packets: Any) -> None:
        file = self._streams.file
        with _writing(file.path):
            file.check()
            self._streams.target.mux(packets)
            file.grew()


def _changed(part: Part, found: int) -> InputError:
    return InputError(
        f"{part.name} ({part.path}) was changed while it was joined: {found} of its {part.frames} frames are there. "
        "Let no other program change it, then run again."
    )


def _encode(parts: Sequence[Part], path: Path, how: Joining) -> None:
    first, total = parts[0], sum(part.frames for part in parts)
    codec = first.codec if first.codec in CODECS else "h264"
    names = [name for name, known in PIXEL_FORMATS.items() if known.name == first.pixel_format]
    pixels = names[0] if names and names[0] in CODECS[codec].pixel_formats else AUTO
    sound_format = _sound_format(parts, how.track)
    picture = PictureTrack(first.width, first.height, first.fps, codec, pixels)
    sound = AudioTrack(*sound_format) if sound_format else None
    with VideoWriter(path, picture, sound, how.metadata, Unfinished(kept=False)) as writer:
        if how.track is not None:
            writer.write_audio(how.track[0])
        for part in parts:
            place = None
            if how.track is None and sound_format is not None:
                rate = sound_format[0]
                end = samples_for_frames(writer.frames_written + part.frames, first.fps, rate)
                begin = samples_for_frames(writer.frames_written, first.fps, rate)
                place = PartSound(part.start, end - begin, *sound_format)
            _encode_part(part, writer, place, lambda done: how.on_frames(done, total))


def _encode_part(part: Part, writer: VideoWriter, placed: PartSound | None, report: Callable[[int], None]) -> None:
    with opened(part.path) as source:
        streams: list[Any] = [source.streams.video[0]]
        if placed is not None and part.sample_rate:
            streams.append(sound_stream(source))
        pictures = FrameDecoder(streams[0])
        for packet in source.demux(streams):
            if packet.stream_index != streams[0].index:
                assert placed is not None
                for heard in packet.decode():
                    writer.write_audio(placed.of_frame(heard))
                continue
            for frame in pictures.decode(packet):
                picture = rgba_of(frame) if part.has_alpha else rgb_of(frame, writer.bits)
                writer.write_frames(picture[np.newaxis])
                if writer.frames_written % REPORT_FRAMES == 0:
                    report(writer.frames_written)
    if placed is not None:
        writer.write_audio(placed.rest())
    report(writer.frames_written)
