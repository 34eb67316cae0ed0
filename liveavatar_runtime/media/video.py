"""Writes a video file block by block: what has been written can be watched at once and survives a crash.

    with VideoWriter(path, PictureTrack(688, 368, Fraction(16)), AudioTrack(16000)) as video:
        video.write_audio(waveform)          # float32 [C, S], as much as there is
        for frames in blocks:
            video.write_frames(frames)       # uint8 [T, H, W, 3]

While it grows the file is a fragmented MP4, or Matroska (WebM) with short clusters: a few frames with their sound are
on the disk as soon as they are encoded, and nothing is kept in memory for the end. `close` copies an MP4, without
encoding anything again, into an ordinary one with its index in front; Matroska gets its index and length.
"""

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..disk import what_to_do
from ..duration import FRAMES_PER_BLOCK, samples_for_frames
from ..errors import InputError, MachineError, handled, reason_of, replaced
from ..out_of_memory import encoder_full, is_out_of_memory
from .codecs import AUTO, MP4, FileKind, VideoFormat, video_format
from .copying import copied_stream
from .growing_file import GrowingFile, OutputLostError, packets_in, playable_frames, what_plays
from .picture_conversion import PictureConverter
from .sound import SoundTrack, check_sound
from .thread_priority import ordinary_priority

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.error import FFmpegError

log = logging.getLogger(__name__)

# FFmpeg's number of the BT.709 primaries, transfer curve and matrix.
BT709 = 1
# FFmpeg's numbers of the ranges 16..235 and 0..255, and of the matrix that leaves RGB as it is.
LIMITED_RANGE, FULL_RANGE = 1, 2
RGB_MATRIX = 0

NOBODY_ELSE = "Make sure that the disk has room and that no other program changes the file, then run again."


@dataclass(frozen=True)
class PictureTrack:
    """Even pixels and the exact frame rate of a file's picture, and how it is encoded: codec, pixel_format, crf and
    has_alpha as `video_format` takes them, keyframe_interval in frames."""

    width: int
    height: int
    fps: Fraction
    codec: str = "h264"
    pixel_format: str = AUTO
    crf: int | None = None
    keyframe_interval: int = 48
    has_alpha: bool = False


@dataclass(frozen=True)
class AudioTrack:
    """Sample rate and channels (1 or 2) of a file's sound."""

    sample_rate: int
    channels: int = 1


@dataclass(frozen=True)
class Unfinished:
    """What becomes of a file that cannot be finished: whether it is kept, and what its error advises beside."""

    kept: bool = True
    advice: str = ""


KEPT = Unfinished()


class VideoWriter:
    """Appends frames and sound to one video file.

    Sound may be given ahead of the picture; it waits and is written up to the end of the frames written so far.
    `close` ends it with the picture: what is missing is silence, what is too long is dropped. Leaving the `with`
    block closes the file however it is left, so an error or an interruption leaves a playable file of the frames
    written; a file without frames is removed, and any unfinished one unless `unfinished.kept`.

    A file that somebody removes, replaces or shortens while it grows ends the writing with OutputLostError, which is a
    MachineError. After a failure `frames_written` is what plays of the file; `unfinished.advice` is told with it.

    path: the file to write; its folder exists. sound: None for a silent file. metadata: texts to store by name, such as
    ComfyUI's "prompt" and "workflow" (JSON).

    Raises InputError for values that cannot be written, MachineError when this machine cannot encode or write.
    """

    sound_ahead = 0
    """Samples of sound that are wanted before their frames."""

    def __init__(
        self,
        path: str | Path,
        picture: PictureTrack,
        sound: AudioTrack | None = None,
        metadata: Mapping[str, str] | None = None,
        unfinished: Unfinished = KEPT,
    ) -> None:
        from av.error import FFmpegError

        _check_size(picture.width, picture.height)
        self.format = video_format(picture.codec, picture.pixel_format, picture.crf, picture.has_alpha)
        if sound is not None:
            check_sound(sound.sample_rate, sound.channels)
        self.path = Path(path)
        self.width, self.height, self.fps = picture.width, picture.height, Fraction(picture.fps)
        self.frames_written = 0
        self.writing_seconds = 0.0
        """Of what is encoded, into the file; at the end also of the copy with its index in front."""
        self._metadata = dict(metadata or {})
        self._closed = False
        self._unfinished = unfinished
        self._is_new = not self.path.exists() or not self.path.stat().st_size
        self._packets: Counter[int] = Counter()
        """Written so far, by stream."""
        self._converter = PictureConverter(self.format.pixels, picture.width, picture.height)
        self._container: Any = None
        self._file: GrowingFile | None = None
        self._sound: SoundTrack | None = None
        with replaced((FFmpegError, OSError), self._not_begun):
            kind = self.format.codec.kind
            self._container = _open_growing(self.path, kind, self.fps, self._metadata)
            self._picture = self._add_picture(self.format, picture.keyframe_interval)
            if sound is not None:
                self._sound = SoundTrack(self._container, sound.sample_rate, sound.channels, kind.sound)
            with ordinary_priority():
                self._container.start_encoding()
            self._file = GrowingFile(self.path)

    def _not_begun(self, error: Exception) -> MachineError:
        self.discard()
        return MachineError(_why_not_open(self.path, self.format.codec.encoder, error))

    @property
    def bits(self) -> int:
        """Of a value in the file: 8 or 10."""
        return self.format.pixels.bits

    def _add_picture(self, chosen: VideoFormat, keyframe_interval: int) -> Any:
        stream: Any = self._container.add_stream(chosen.codec.encoder, rate=self.fps)
        stream.width, stream.height, stream.pix_fmt = self.width, self.height, chosen.pixels.name
        stream.options = chosen.encoder_options
        context = stream.codec_context
        if chosen.codec.tag is not None:
            context.codec_tag = chosen.codec.tag
        context.gop_size = keyframe_interval
        context.color_range = FULL_RANGE if chosen.pixels.is_rgb else LIMITED_RANGE
        context.color_primaries = context.color_trc = BT709
        context.colorspace = RGB_MATRIX if chosen.pixels.is_rgb else BT709
        return stream

    def write_frames(self, frames: torch.Tensor | np.ndarray) -> None:
        """Append pictures [T, H, W, 3], uint8, or uint16 (0..65535) in a file of 10 bits, or [T, H, W, 4] in one with
        alpha; the sound given so far follows up to their end."""
        self._check_open()
        for picture in self._converter.checked(frames):
            frame = self._converter.frame(picture)
            frame.pts, frame.time_base = self.frames_written, 1 / self.fps
            self._encode(self._picture, [frame])
            self.frames_written += 1
        self._write_sound()

    def write_audio(self, waveform: torch.Tensor | np.ndarray) -> None:
        """Append sound, float [C, S] in -1..1 (else clipped), at the writer's sample rate; it may run ahead."""
        self._check_open()
        if self._sound is None:
            raise InputError("This file has no sound track: open the VideoWriter with a sample_rate to write sound.")
        samples = waveform.detach().cpu().float().numpy() if isinstance(waveform, torch.Tensor) else waveform
        self._sound.append(np.asarray(samples, dtype=np.float32))
        self._write_sound()

    def close(self) -> None:
        """Finish the file: the last frames, sound to the end of the picture, the index. A second call does nothing."""
        if self._closed:
            return
        if not self.frames_written:
            self.discard()
            return
        self._closed = True
        self._write_sound(fill=True)
        self._encode(self._picture, [None])
        if self._sound is not None:
            self._encode(self._sound.stream, [*self._sound.rest(), None])
        begun = time.perf_counter()
        with self._writing():
            self._container.close()
        if self.format.codec.kind is MP4:
            assert self._file is not None
            with self._writing():
                self._file = _with_index_in_front(self._file, self._metadata, self._packets)
        self.writing_seconds += time.perf_counter() - begun

    def discard(self) -> None:
        """Close, and remove the file unless it was there before."""
        from av.error import FFmpegError

        self._closed = True
        if self._container is not None:
            with suppress(FFmpegError):
                self._container.close()
        if self._file is None:
            with suppress(OSError):
                self._file = GrowingFile(self.path)
        if self._is_new and self._file is not None:
            self._file.remove()

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not self._unfinished.kept and not self._closed:
            self.discard()
        self.close()

    def _write_sound(self, fill: bool = False) -> None:
        if self._sound is not None:
            end = samples_for_frames(self.frames_written, self.fps, self._sound.sample_rate)
            self._encode(self._sound.stream, self._sound.frames_until(end, fill))

    def _encode(self, stream: Any, frames: list[Any]) -> None:
        """Encode frames of picture or sound and write the packets; None among them ends the stream."""
        with self._writing():
            for frame in frames:
                packets = stream.encode(frame)
                begun = time.perf_counter()
                self._container.mux(packets)
                self.writing_seconds += time.perf_counter() - begun
                self._packets[stream.index] += len(packets)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """When the disk refuses or the file is lost, ends it behind the last whole fragment and raises MachineError."""
        from av.error import FFmpegError

        assert self._file is not None
        with replaced((FFmpegError, OutputLostError), self._failure):
            self._file.check()
            yield
            self._file.grew()

    def _failure(self, error: "FFmpegError | OutputLostError") -> MachineError:
        """Closes the file, makes of it what can be, and says what that is."""
        from av.error import FFmpegError

        assert self._file is not None
        self._closed = True
        # Closing writes once more, perhaps behind a hole.
        whole = self._file.whole_bytes()
        with suppress(FFmpegError):
            self._container.close()
        self._file.end_at(whole)
        self.frames_written = playable_frames(self.path) if self._unfinished.kept and self._file.is_there() else 0
        if not self.frames_written:
            self._file.remove()
        left = what_plays(self.frames_written, self.fps)
        if isinstance(error, OutputLostError):
            return OutputLostError(" ".join(filter(None, (f"{error}.", left, NOBODY_ELSE, self._unfinished.advice))))
        if is_out_of_memory(error):
            encoder = self.format.codec.encoder
            return encoder_full(f"{self.path.name} could not be written any further", encoder, error, left)
        text = f"{self.path} could not be written any further: {reason_of(error)}."
        return MachineError(" ".join(filter(None, (text, left, what_to_do(error), self._unfinished.advice))))

    def _check_open(self) -> None:
        if self._closed:
            raise InputError(f"{self.path.name} is closed; nothing can be appended to it.")


def _check_size(width: int, height: int) -> None:
    if width < 2 or height < 2 or width % 2 or height % 2:
        raise InputError(
            f"The video is {width}x{height} pixels; H.264 players need even sides of at least 2. Use "
            f"{max(2, width + width % 2)}x{max(2, height + height % 2)}."
        )


def _open_growing(path: Path, kind: FileKind, fps: Fraction, metadata: Mapping[str, str]) -> "OutputContainer":
    """A file whose pieces reach the disk one by one."""
    import av

    options = kind.growing_options(fps, FRAMES_PER_BLOCK)
    container = av.open(str(path), "w", format=kind.muxer, options=options)
    container.metadata.update(metadata)
    return container


def _with_index_in_front(file: GrowingFile, metadata: Mapping[str, str], written: Counter[int]) -> GrowingFile:
    """Copy the packets of a finished fragmented MP4 into an ordinary one under the same name.

    Players then know its length and seek in it, a browser starts before all of it has arrived, and ComfyUI's front
    end finds the workflow, for which it reads no further than 64 MiB. When the disk has no room for the copy, or
    another program holds the file, the fragmented file stays: it has all frames and all sound. Raises OutputLostError
    when it has not the packets `written` by stream: another program has changed it, or the disk has refused what was
    written last, of which closing a file says nothing.
    """
    from av.error import FFmpegError

    path = file.path
    # Not longer than the name itself, which may be as long as the system takes.
    copy = path.with_suffix(".tmp")

    def fragmented(error: FFmpegError | OSError) -> None:
        if file.is_there():
            _check_packets(path, packets_in(path), written)
        log.warning(
            "%s stays a fragmented MP4 (complete and playable, its index in pieces): %s", path, reason_of(error)
        )

    copied = False
    with _removed_at_end(copy), handled((FFmpegError, OSError), fragmented):
        _check_packets(path, _copy_packets(path, copy, metadata), written)
        os.replace(copy, path)
        copied = True
    return GrowingFile(path) if copied else file


@contextmanager
def _removed_at_end(path: Path) -> Iterator[None]:
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _check_packets(path: Path, found: Counter[int], written: Counter[int]) -> None:
    if found != written:
        raise OutputLostError(
            f"{path} lacks {(written - found).total()} of {written.total()} packets that were written last: the disk "
            "was full or another program changed the file"
        )


def _copy_packets(path: Path, copy: Path, metadata: Mapping[str, str]) -> Counter[int]:
    """Write a file's packets into another MP4; returns how many there were of each stream."""
    import av

    found: Counter[int] = Counter()
    options = MP4.finished_options()
    with av.open(str(path)) as source, av.open(str(copy), "w", format=MP4.muxer, options=options) as target:
        target.metadata.update(metadata)
        streams = [copied_stream(target, stream) for stream in source.streams]
        for packet in source.demux():
            if packet.size:
                found[packet.stream_index] += 1
                packet.stream = streams[packet.stream_index]
                target.mux(packet)
    return found


def _why_not_open(path: Path, encoder: str, error: Exception) -> str:
    advice = (
        "Check that the folder exists and is writable. If it is, install PyAV's own wheel (pip install "
        "--force-reinstall av)."
    )
    text = f"{path} cannot be written with the encoder {encoder}: {reason_of(error)}."
    return f"{text} {what_to_do(error) if isinstance(error, OSError) else advice}"
