"""What is in a video file, and single frames of it."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from liveavatar_runtime.errors import InputError
from liveavatar_runtime.media.frames import opened, rgb_of

if TYPE_CHECKING:
    from av import VideoFrame


@dataclass(frozen=True)
class VideoFacts:
    """What a video file holds. Times are exact seconds on the file's own clock.

    `duration` runs from the first frame to the end of the last one, `audio_duration` likewise from the first sample
    that is heard; `samples` is that in samples. All sound fields are None in a silent file.
    """

    frames: int
    fps: Fraction
    width: int
    height: int
    codec: str
    start: Fraction
    duration: Fraction
    audio_codec: str | None = None
    sample_rate: int | None = None
    channels: int | None = None
    samples: int | None = None
    audio_start: Fraction | None = None
    audio_duration: Fraction | None = None


@dataclass
class _Span:
    """Packets of one stream and the time they cover, in its time base."""

    packets: int = 0
    start: int = 0
    end: int = 0

    def add(self, start: int, length: int) -> None:
        self.start = min(self.start, start) if self.packets else start
        self.end = max(self.end, start + length)
        self.packets += 1


def probe(path: str | Path) -> VideoFacts:
    """Facts of a video file, from its packets: nothing is decoded, and unfinished files give true numbers too.

    Raises InputError when the file is missing, unreadable or without frames.
    """
    with opened(path) as container:
        streams: list[Any] = [container.streams.video[0], *container.streams.audio[:1]]
        spans = {stream.index: _Span() for stream in streams}
        for packet in container.demux(streams):
            if packet.size and packet.pts is not None:
                spans[packet.stream.index].add(packet.pts, packet.duration or 0)
        picture, shown = streams[0], spans[streams[0].index]
        if not shown.packets:
            raise InputError(f"{path} has no frames yet. Give a video with at least one frame.")
        facts: dict[str, Any] = {
            "frames": shown.packets,
            "fps": Fraction(picture.average_rate),
            "width": picture.width,
            "height": picture.height,
            "codec": picture.codec_context.codec.canonical_name,
            "start": shown.start * picture.time_base,
            "duration": (shown.end - shown.start) * picture.time_base,
        }
        for sound in streams[1:]:
            facts |= _sound_facts(sound, spans[sound.index])
    return VideoFacts(**facts)


def _sound_facts(sound: Any, heard: _Span) -> dict[str, Any]:
    # Packets before time 0 only start the decoder (AAC priming); players drop them.
    start = max(heard.start, 0) * sound.time_base
    duration = max(heard.end * sound.time_base - start, Fraction(0))
    return {
        "audio_codec": sound.codec_context.name,
        "sample_rate": sound.rate,
        "channels": sound.layout.nb_channels,
        "samples": round(duration * sound.rate),
        "audio_start": start,
        "audio_duration": duration,
    }


def read_frame(path: str | Path, index: int | Literal["last"]) -> np.ndarray:
    """One frame, uint8 [H, W, 3]; index counts from 0 at the file's constant frame rate, or is "last".

    Raises InputError when the file is missing, unreadable or has no such frame.
    """
    if index != "last" and index < 0:
        raise InputError(f'Frame {index} does not exist: give 0 or more, or "last".')
    with opened(path) as container:
        stream: Any = container.streams.video[0]
        start = stream.start_time or 0
        frame_ticks = 1 / (Fraction(stream.average_rate) * stream.time_base)
        # Matroska knows only the length of the whole file.
        length = stream.duration or int((container.duration or 0) / Fraction(1_000_000) / stream.time_base)
        target = start + length if index == "last" else start + round(index * frame_ticks)
        # Lands on the keyframe at or before the target, or on the last one the file's index knows.
        container.seek(target, stream=stream)
        found: VideoFrame | None = None
        position = -1
        for frame in container.decode(stream):
            found, position = frame, round(((frame.pts or 0) - start) / frame_ticks)
            if index != "last" and position >= index:
                break
        if found is None or (index != "last" and position != index):
            raise InputError(f"{path} has no frame {index}; its last one is frame {position}.")
        return rgb_of(found)
