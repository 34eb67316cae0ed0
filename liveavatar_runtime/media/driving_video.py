"""Pictures of a driving video by time: from a video file, read as they are wanted, or from pictures in memory."""

from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from torch import Tensor

from ..duration import picture_at, shown_length, timestamp_error
from ..errors import InputError
from .frames import opened, rgb_of
from .images import MIN_PICTURE_SIDE

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream
    from av.container import InputContainer

QUARTER = 90
"""Degrees."""


class DrivingPictures(Protocol):
    """What a driving video shows, and when. Times of one call after the other may go back, which costs more."""

    @property
    def length(self) -> Fraction:
        """Seconds, that of the last picture included."""
        ...

    @property
    def has_alpha(self) -> bool:
        """Whether pictures are transparent in parts; black is laid behind them."""
        ...

    def picture_at(self, seconds: Fraction) -> np.ndarray:
        """uint8 RGB [H, W, 3], shown at a time of 0 to `length`; nothing may write to it. Raises InputError."""
        ...

    def close(self) -> None:
        """Let go of the file; it is opened again when it is wanted."""
        ...


def on_black(pixels: np.ndarray) -> np.ndarray:
    """uint8 RGBA [H, W, 4] with straight alpha, laid over black, on which poses are drawn: uint8 [H, W, 3]."""
    color, alpha = pixels[..., :3].astype(np.uint16), pixels[..., 3:].astype(np.uint16)
    return ((color * alpha + 127) // 255).astype(np.uint8)


class PicturesInMemory:
    """A batch of pictures, float [N, H, W, C] in 0..1 (clipped) of 1 (grey), 3 (RGB) or 4 (RGBA) channels, at a rate.

    Raises InputError for anything else, and where values are not numbers.
    """

    def __init__(self, pictures: Tensor, rate: Fraction) -> None:
        shape = list(pictures.shape)
        if pictures.ndim != 4 or not pictures.numel() or shape[-1] not in (1, 3, 4) or not pictures.is_floating_point():
            raise InputError(
                f"pose_video is {pictures.dtype} {shape}; a batch of pictures is float [pictures, height, width, "
                "channels] with at least one picture and 1, 3 or 4 channels."
            )
        _check_sides(shape[2], shape[1])
        if not pictures.isfinite().all():
            raise InputError("pose_video has values that are not numbers (NaN or infinite): check what made it.")
        self._pictures, self._rate = pictures, rate

    @property
    def length(self) -> Fraction:
        return len(self._pictures) / self._rate

    @property
    def has_alpha(self) -> bool:
        return self._pictures.shape[-1] == 4

    def picture_at(self, seconds: Fraction) -> np.ndarray:
        picture = self._pictures[picture_at(seconds, self._rate, len(self._pictures))]
        pixels = picture.detach().float().cpu().clamp(0, 1).mul(255).round().byte().numpy()
        return on_black(pixels) if self.has_alpha else np.broadcast_to(pixels, (*pixels.shape[:2], 3))

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class VideoPart:
    """A video file, or all bytes of one, and which part of it is meant: seconds of its own clock, `duration` 0 up to
    its end."""

    source: Path | bytes
    start: float = 0.0
    duration: float = 0.0

    def opened(self) -> BytesIO | Path:
        return BytesIO(self.source) if isinstance(self.source, bytes) else self.source

    @property
    def name(self) -> str:
        return "pose_video" if isinstance(self.source, bytes) else str(self.source)


@dataclass(frozen=True)
class Timeline:
    """When a file's pictures are shown: `frames` of them from `first` to before `end` in units of `unit` seconds (`end`
    None: to the file's). `counted`: the file has no times, so they are numbers of frames."""

    frames: int
    first: int
    end: int | None
    unit: Fraction
    length: Fraction
    rate: Fraction | None
    counted: bool

    def seconds(self, pts: int) -> Fraction:
        """From when on a picture is shown, counted from the first one."""
        return (pts - self.first) * self.unit - timestamp_error(self.unit)


def read_timeline(part: VideoPart) -> Timeline:
    """From the file's packets; no picture is decoded, and memory does not grow with the file.

    Raises InputError for a file without frames, or with neither times nor a rate.
    """
    with opened(part.opened()) as container:
        stream = _stream_of(container, part)
        rate = Fraction(stream.average_rate) if stream.average_rate else None
        unit = Fraction(stream.time_base) if stream.time_base else Fraction(0)
        timed = Span() if unit else None
        window = _window(part, unit) if unit else (0, None)
        packets = 0
        for packet in container.demux(stream):
            if not packet.size or packet.is_discard:
                continue
            packets += 1
            if packet.pts is None:
                timed = None
            elif timed is not None:
                timed.take(packet.pts, packet.duration or 0, window)
    if timed is not None:
        return _by_times(part, timed, unit, rate, window[1])
    if rate is None and packets > 1:
        raise InputError(
            f"{part.name} tells neither when its frames are shown nor how many a second: convert it to an MP4 "
            "with a frame rate."
        )
    return _by_number(part, packets, rate or Fraction(1))


@dataclass
class Span:
    """Times of pictures, in units of a file's clock."""

    frames: int = 0
    first: int = 0
    last: int = 0
    end: int = 0

    def take(self, pts: int, duration: int, window: tuple[int, int | None]) -> None:
        """A picture, if it begins in the window."""
        start, end = window
        # Without a window also what is before 0 counts.
        if (start and pts < start) or (end is not None and pts >= end):
            return
        shown_to = pts + duration if end is None else min(end, pts + duration)
        self.first = min(self.first, pts) if self.frames else pts
        self.last = max(self.last, pts) if self.frames else pts
        self.end = max(self.end, shown_to) if self.frames else shown_to
        self.frames += 1


def _window(part: VideoPart, unit: Fraction) -> tuple[int, int | None]:
    """The first unit of a part and the one after its last, None for the file's end; cut as ComfyUI cuts videos."""
    start = int(part.start / unit)
    return start, int((part.start + part.duration) / unit) if part.duration else None


def _by_times(part: VideoPart, span: Span, unit: Fraction, rate: Fraction | None, end: int | None) -> Timeline:
    _check_frames(part, span.frames)
    if span.end <= span.last and rate is not None:
        # The last packet tells no duration.
        span.end = span.last + max(1, round(1 / rate / unit))
    seconds = (span.end - span.first) * unit
    length = seconds if end is not None else shown_length(span.frames, rate, seconds, unit)
    return Timeline(span.frames, span.first, end, unit, length or Fraction(1), rate, counted=False)


def _by_number(part: VideoPart, packets: int, rate: Fraction) -> Timeline:
    start, end = _window(part, 1 / rate)
    stop = packets if end is None else min(end, packets)
    _check_frames(part, max(0, stop - start))
    return Timeline(stop - start, start, stop, 1 / rate, (stop - start) / rate, rate, counted=True)


def _check_frames(part: VideoPart, frames: int) -> None:
    if frames < 1:
        where = f" from {part.start:g} s on" if part.start or part.duration else ""
        raise InputError(f"{part.name} has no frames{where}. Give a video with at least one picture.")


def _check_sides(width: int, height: int) -> None:
    if min(width, height) < MIN_PICTURE_SIDE:
        raise InputError(
            f"the pictures of pose_video are {width}x{height} pixels; they must be at least "
            f"{MIN_PICTURE_SIDE}x{MIN_PICTURE_SIDE}."
        )


def _stream_of(container: "InputContainer", part: VideoPart) -> "VideoStream":
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise InputError(f"{part.name} has pictures in a format that FFmpeg cannot decode. Convert it to H.264.")
    return stream


@dataclass(frozen=True)
class Shown:
    """A picture of a file, and from when on it is shown."""

    seconds: Fraction
    frame: "VideoFrame"

    @cached_property
    def pixels(self) -> np.ndarray:
        """uint8 RGB [H, W, 3], turned as the file says, transparent parts on black."""
        frame = self.frame
        if has_alpha(frame):
            pixels = on_black(frame.reformat(format="rgba", dst_color_range="JPEG").to_ndarray())
        else:
            pixels = rgb_of(frame)
        quarters = round(frame.rotation / QUARTER)
        return np.rot90(pixels, quarters) if quarters else pixels


def has_alpha(frame: "VideoFrame") -> bool:
    return frame.format.name == "pal8" or any(part.is_alpha for part in frame.format.components)


class FilePictures:
    """A part of a video file, decoded as far as it is wanted: one picture is read ahead.

    `about`: its first picture, as it is decoded. Raises InputError for a file that cannot be read, has no frames, or
    tells no times. Not for several threads at once.
    """

    def __init__(self, part: VideoPart) -> None:
        self._part = part
        self.timeline = read_timeline(part)
        self.decoded = 0
        """Pictures that were decoded so far."""
        self._frames = self._read(Fraction(0))
        self._shown: Shown | None = None
        self._coming: Shown | None = None
        self._begin(Fraction(0))
        assert self._shown is not None
        self.about: VideoFrame = self._shown.frame
        _check_sides(self.about.width, self.about.height)
        self.close()

    @property
    def length(self) -> Fraction:
        return self.timeline.length

    @property
    def has_alpha(self) -> bool:
        return has_alpha(self.about)

    def picture_at(self, seconds: Fraction) -> np.ndarray:
        if self._shown is None or seconds < self._shown.seconds:
            self._begin(seconds)
        while self._coming is not None and self._coming.seconds <= seconds:
            self._shown, self._coming = self._coming, next(self._frames, None)
        assert self._shown is not None
        return self._shown.pixels

    def close(self) -> None:
        self._frames.close()
        self._shown = self._coming = None

    def _begin(self, seconds: Fraction) -> None:
        """With the pictures from one on that is shown at a time or before."""
        self.close()
        self._frames = self._read(seconds)
        self._shown = next(self._frames, None)
        if self._shown is None or self._shown.seconds > max(seconds, Fraction(0)):
            # Where a file is searched badly, reading all of it finds the same.
            self.close()
            self._frames = self._read(Fraction(0))
            self._shown = next(self._frames, None)
        if self._shown is None:
            raise InputError(f"{self._part.name}: no picture could be decoded. Give a video that plays.")
        self._coming = next(self._frames, None)

    def _read(self, seconds: Fraction) -> Generator[Shown, None, None]:
        """Pictures in the order of time, from one on that is shown at `seconds` or before; of a file that cannot be
        searched for it, later ones or none."""
        from av.error import FFmpegError

        line, part = self.timeline, self._part
        begun = seconds <= 0 or line.counted
        wanted = line.first + int(seconds / line.unit)
        last = None
        with opened(part.opened()) as container:
            stream = _stream_of(container, part)
            if not begun:
                with suppress(FFmpegError):
                    container.seek(wanted, stream=stream)
            from_start = begun
            for number, frame in enumerate(container.decode(stream)):
                # What comes out before a key picture was decoded without what it refers to.
                begun = begun or frame.key_frame
                pts = number if line.counted else frame.pts
                if not begun and pts is not None and pts > wanted:
                    return
                if not begun or pts is None or pts < line.first or (last is not None and pts <= last):
                    continue
                if line.end is not None and pts >= line.end:
                    return
                since = line.seconds(pts)
                # Where the first ones cannot be decoded, the next one stands for them.
                self.decoded += 1
                yield Shown(min(since, Fraction(0)) if from_start and last is None else since, frame)
                last = pts
