"""Writes a video file block by block: what has been written can be watched at once and survives a crash.

    with VideoWriter(path, 688, 368, Fraction(16), sample_rate=16000) as video:
        video.write_audio(waveform)          # float32 [C, S], as much as there is
        for frames in blocks:
            video.write_frames(frames)       # uint8 [T, H, W, 3]

While it grows the file is a fragmented MP4: a fragment of a few frames with their sound is on the disk as soon as it
is encoded, and nothing is kept in memory for the end. `close` copies it, without encoding anything again, into an
ordinary MP4 with its index in front.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import InputError, MachineError
from ..planning.duration import FRAMES_PER_BLOCK, samples_for_frames
from .sound import SoundTrack, check_sound

if TYPE_CHECKING:
    from av.container import OutputContainer

log = logging.getLogger(__name__)

# A block of 12 frames is readable when the next one has been written: the frames a fragment waits for and those the
# encoder holds back (its lookahead, and one) stay below 12.
FRAGMENT_FRAMES = 4
LOOKAHEAD_FRAMES = 4
# FFmpeg's number of the BT.709 primaries, transfer curve and matrix.
BT709 = 1
# FFmpeg's number of the range 16..235.
LIMITED_RANGE = 1


@dataclass(frozen=True)
class VideoCodec:
    """How one codec is written. A lower crf is better and bigger; both ends of the range are allowed."""

    encoder: str
    pixel_format: str
    crf_range: tuple[int, int]
    default_crf: int
    options: Mapping[str, str] = field(default_factory=dict)


CODECS: dict[str, VideoCodec] = {
    "h264": VideoCodec(
        encoder="libx264",
        pixel_format="yuv420p",
        crf_range=(0, 51),
        default_crf=18,
        # Without B-frames the first picture has time 0 in every player and no frame waits for a later block. Sliced
        # threads, because a thread for each frame would hold back as many frames.
        options={
            "bf": "0",
            "rc-lookahead": str(LOOKAHEAD_FRAMES),
            "threads": "4",
            "x264-params": "sync-lookahead=0:sliced-threads=1",
        },
    ),
}


class VideoWriter:
    """Appends frames and sound to one MP4 file.

    Sound may be given ahead of the picture; it waits and is written up to the end of the frames written so far.
    `close` ends it with the picture: what is missing is silence, what is too long is dropped. Leaving the `with`
    block closes the file however it is left, so an error or an interruption leaves a playable file of the frames
    written; a file without frames is removed.

    path: the file to write; its folder exists. width, height: even pixels. fps: exact. sample_rate: of the sound
    given, None for a silent file. channels: 1 or 2. codec: a name in `CODECS`. crf: None for the codec's default.
    metadata: texts to store by name, such as ComfyUI's "prompt" and "workflow" (JSON). keyframe_interval: frames.

    Raises InputError for values that cannot be written, MachineError when this machine cannot encode or write.
    """

    def __init__(
        self,
        path: str | Path,
        width: int,
        height: int,
        fps: Fraction,
        sample_rate: int | None = None,
        channels: int = 1,
        codec: str = "h264",
        crf: int | None = None,
        metadata: Mapping[str, str] | None = None,
        keyframe_interval: int = 48,
    ) -> None:
        from av.codec.codec import UnknownCodecError
        from av.error import FFmpegError

        _check_size(width, height)
        settings, crf = _resolve_codec(codec, crf)
        if sample_rate is not None:
            check_sound(sample_rate, channels)
        self.path = Path(path)
        self.width, self.height, self.fps = width, height, Fraction(fps)
        self.frames_written = 0
        self._metadata = dict(metadata or {})
        self._closed = False
        self._is_new = not self.path.exists()
        self._whole_bytes = 0
        self._container: Any = None
        self._sound: SoundTrack | None = None
        try:
            self._container = _open_growing(self.path, self.fps, self._metadata)
            self._picture = self._add_picture(settings, crf, keyframe_interval)
            if sample_rate is not None:
                self._sound = SoundTrack(self._container, sample_rate, channels)
            self._container.start_encoding()
        except (FFmpegError, UnknownCodecError) as error:
            self._discard()
            raise MachineError(_why_not_open(self.path, settings.encoder, error)) from error

    def _add_picture(self, settings: VideoCodec, crf: int, keyframe_interval: int) -> Any:
        stream: Any = self._container.add_stream(settings.encoder, rate=self.fps)
        stream.width, stream.height, stream.pix_fmt = self.width, self.height, settings.pixel_format
        stream.options = {"crf": str(crf), **settings.options}
        context = stream.codec_context
        context.gop_size = keyframe_interval
        context.color_range = LIMITED_RANGE
        context.colorspace = context.color_primaries = context.color_trc = BT709
        return stream

    def write_frames(self, frames: torch.Tensor | np.ndarray) -> None:
        """Append pictures, uint8 [T, H, W, 3]; the sound given so far follows up to their end."""
        import av

        self._check_open()
        pictures = frames.cpu().numpy() if isinstance(frames, torch.Tensor) else np.asarray(frames)
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[1:] != (self.height, self.width, 3):
            raise InputError(
                f"The frames are {pictures.dtype} {list(pictures.shape)}; this file takes uint8 "
                f"[frames, {self.height}, {self.width}, 3]."
            )
        for picture in pictures:
            rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame = rgb.reformat(format=self._picture.pix_fmt, dst_colorspace="ITU709", dst_color_range="MPEG")
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
            self._discard()
            return
        self._closed = True
        self._write_sound(fill=True)
        self._encode(self._picture, [None])
        if self._sound is not None:
            self._encode(self._sound.stream, [*self._sound.rest(), None])
        with self._writing():
            self._container.close()
        _move_index_to_front(self.path, self._metadata)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write_sound(self, fill: bool = False) -> None:
        if self._sound is not None:
            end = samples_for_frames(self.frames_written, self.fps, self._sound.sample_rate)
            self._encode(self._sound.stream, self._sound.frames_until(end, fill))

    def _encode(self, stream: Any, frames: list[Any]) -> None:
        """Encode frames of picture or sound and write the packets; None among them ends the stream."""
        with self._writing():
            for frame in frames:
                self._container.mux(stream.encode(frame))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """When the disk refuses, ends the file behind the last whole fragment and raises MachineError."""
        from av.error import FFmpegError

        try:
            yield
        except FFmpegError as error:
            self._closed = True
            with suppress(FFmpegError):
                self._container.close()
            if self._whole_bytes:
                os.truncate(self.path, self._whole_bytes)
            else:
                self.path.unlink(missing_ok=True)
            raise MachineError(
                f"{self.path} could not be written any further: {error}. It plays up to there. Free some space on the "
                f"disk, then run again."
            ) from error
        self._whole_bytes = self.path.stat().st_size

    def _check_open(self) -> None:
        if self._closed:
            raise InputError(f"{self.path.name} is closed; nothing can be appended to it.")

    def _discard(self) -> None:
        """Close, and remove the file, which has no frames, unless it was there before."""
        self._closed = True
        if self._container is not None:
            self._container.close()
        if self._is_new:
            self.path.unlink(missing_ok=True)


def _check_size(width: int, height: int) -> None:
    if width < 2 or height < 2 or width % 2 or height % 2:
        raise InputError(
            f"The video is {width}x{height} pixels; H.264 players need even sides of at least 2. Use "
            f"{max(2, width + width % 2)}x{max(2, height + height % 2)}."
        )


def _resolve_codec(codec: str, crf: int | None) -> tuple[VideoCodec, int]:
    if codec not in CODECS:
        raise InputError(f"The video codec is {codec!r}; available are {', '.join(CODECS)}.")
    settings = CODECS[codec]
    low, high = settings.crf_range
    crf = settings.default_crf if crf is None else crf
    if not low <= crf <= high:
        raise InputError(
            f"crf is {crf}; {codec} takes {low} (best, biggest) to {high}. {settings.default_crf} is the default."
        )
    return settings, crf


def _open_growing(path: Path, fps: Fraction, metadata: Mapping[str, str]) -> "OutputContainer":
    """A fragmented MP4 whose fragments reach the disk one by one.

    `max_interleave_delta`: pictures wait for their sound, but not long, because the sound may be over.
    `delay_moov`: the edit list that hides the AAC priming, so that sound and picture start together, needs the first
    packets. `use_metadata_tags`: keep metadata of any name.
    """
    import av

    frame_us = 1_000_000 / fps
    options = {
        "movflags": "delay_moov+default_base_moof+frag_keyframe+use_metadata_tags",
        "frag_duration": str(int((FRAGMENT_FRAMES - Fraction(1, 2)) * frame_us)),
        "max_interleave_delta": str(int(FRAMES_PER_BLOCK * frame_us)),
        "flush_packets": "1",
    }
    container = av.open(str(path), "w", format="mp4", options=options)
    container.metadata.update(metadata)
    return container


def _move_index_to_front(path: Path, metadata: Mapping[str, str]) -> None:
    """Copy the packets of a finished fragmented MP4 into an ordinary one under the same name.

    Players then know its length and seek in it, a browser starts before all of it has arrived, and ComfyUI's front
    end finds the workflow, for which it reads no further than 64 MiB. When the disk has no room for the copy, or
    another program holds the file, the fragmented file stays: it has all frames and all sound.
    """
    import av
    from av.error import FFmpegError

    copy = path.with_name(f"{path.name}.tmp")
    options = {"movflags": "faststart+use_metadata_tags"}
    try:
        with av.open(str(path)) as source, av.open(str(copy), "w", format="mp4", options=options) as target:
            target.metadata.update(metadata)
            streams = [target.add_stream_from_template(stream) for stream in source.streams]
            for packet in source.demux():
                if packet.size:
                    packet.stream = streams[packet.stream_index]
                    target.mux(packet)
        os.replace(copy, path)
    except (FFmpegError, OSError) as error:
        copy.unlink(missing_ok=True)
        log.warning("%s stays a fragmented MP4 (complete and playable, its index in pieces): %s", path.name, error)


def _why_not_open(path: Path, encoder: str, error: Exception) -> str:
    import av

    known = ("libx264", "libopenh264", "h264_nvenc", "h264_videotoolbox", "h264_mf", "libx265", "libsvtav1", "aac")
    available = ", ".join(name for name in known if name in av.codecs_available) or "none that is known"
    return (
        f"{path} cannot be written with the encoder {encoder}: {error}. Check that the folder exists and is writable. "
        f"This PyAV has the encoders {available}; when {encoder} is missing, install PyAV's own wheel (pip install "
        f"--force-reinstall av)."
    )
