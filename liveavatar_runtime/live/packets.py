"""Encoded pictures and sound on their way from the encoder of a live video to its outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from typing import Any, Protocol

from ..duration import FRAMES_PER_BLOCK, samples_for_frames

SOUND_AHEAD = 2048
"""Samples of sound that are encoded before their pictures: the AAC encoder holds back up to so many."""


@dataclass(frozen=True)
class Packet:
    """An encoded picture, or 1024 samples of sound. time, duration: in frames, or in samples of the encoded sound,
    exact however long the video runs; there is no reordering."""

    data: bytes
    time: int
    duration: int
    is_picture: bool
    is_key: bool = False


@dataclass(frozen=True)
class Tracks:
    """What every muxer has to know of the encoded tracks. picture, sound: PyAV's streams of the encoder; sound is None
    for a silent video. gop: frames from a keyframe to the next one."""

    picture: Any
    sound: Any
    fps: Fraction
    gop: int

    @property
    def sound_rate(self) -> int:
        return self.sound.codec_context.sample_rate

    def sound_time(self, frame: int) -> int:
        """Of the sample that is heard when a frame is seen."""
        return samples_for_frames(frame, self.fps, self.sound_rate)


class PacketOutput(Protocol):
    """Where packets go. An output begins with a keyframe, whose time is its zero."""

    def take(self, packets: Sequence[Packet]) -> None:
        """The next packets, in order. Raises FFmpegError or OSError when the output cannot go on; it is closed and
        perhaps opened anew."""
        ...

    def close(self) -> None:
        """Raises as `take`."""
        ...


class OutputKind(Protocol):
    """An output that is to be opened, perhaps more than once."""

    @property
    def name(self) -> str:
        """As a user is told of it."""
        ...

    def open(self, tracks: Tracks) -> PacketOutput: ...


def since(packets: Sequence[Packet], frame: int, tracks: Tracks) -> list[Packet]:
    """Packets from a keyframe on, their times counted from it."""
    sound_start = tracks.sound_time(frame) if tracks.sound is not None else 0
    moved: list[Packet] = []
    for packet in packets:
        start = frame if packet.is_picture else sound_start
        # What begins before the picture but ends after it is heard with it.
        if packet.time + packet.duration > start:
            time = packet.time - start
            moved.append(Packet(packet.data, time, packet.duration, packet.is_picture, packet.is_key))
    return moved


class Muxer:
    """One of FFmpeg's muxers, given packets of the encoder. Raises FFmpegError and OSError."""

    def __init__(self, target: str | BytesIO, kind: str, options: Mapping[str, str], tracks: Tracks) -> None:
        import av

        # Pictures wait for their sound, but not long, because the sound may be late.
        patience = str(int(FRAMES_PER_BLOCK / tracks.fps * 1_000_000))
        given = {"max_interleave_delta": patience, **options}
        self._container: Any = av.open(target, "w", format=kind, options=given)
        self._streams: dict[bool, Any] = {True: self._container.add_stream_from_template(tracks.picture, opaque=True)}
        self._units = {True: 1 / tracks.fps}
        if tracks.sound is not None:
            self._streams[False] = self._container.add_stream_from_template(tracks.sound, opaque=True)
            self._units[False] = Fraction(1, tracks.sound_rate)

    def mux(self, packets: Sequence[Packet]) -> None:
        import av

        for packet in packets:
            muxed: Any = av.Packet(packet.data)
            muxed.time_base = self._units[packet.is_picture]
            muxed.pts = muxed.dts = packet.time
            muxed.duration = packet.duration
            # Every packet of sound can be decoded alone.
            muxed.is_keyframe = packet.is_key or not packet.is_picture
            muxed.stream = self._streams[packet.is_picture]
            self._container.mux_one(muxed)

    def time_scales(self) -> dict[bool, int]:
        """Units a second in the file, by whether they are the picture's; known after the first packet."""
        return {is_picture: stream.time_base.denominator for is_picture, stream in self._streams.items()}

    def close(self) -> None:
        self._container.close()
