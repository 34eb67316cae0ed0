"""A live video in pieces for browsers: fragmented MP4 that is never in a file.

FFmpeg's muxer writes the beginning, with the edit list that hides the samples which the AAC encoder puts before the
first. The fragments are written here: it would keep each until the next frame comes, and a list of all of them.
"""

import re
import secrets
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO

from ..media.live import MOOF, PICTURE_TRACK, Piece, mime_of
from .packets import Muxer, Packet, Tracks

OnPieces = Callable[[bytes, str, list[Piece]], None]
"""Given the beginning that every player needs first, the kind as a browser is asked for it, and what is new."""
SOUND_TRACK = PICTURE_TRACK + 1
START_CODE = re.compile(b"\x00\x00\x00?\x01")
KEY_FLAGS, OTHER_FLAGS = 0x02000000, 0x01010000
"""Of a sample: whether it depends on others."""
PRIMING = 1024
"""Samples that FFmpeg's AAC encoder puts before the first."""


@dataclass(frozen=True)
class Fragments:
    """Output: pieces of fragmented MP4, each whole and none longer than what `take` was given."""

    on_pieces: OnPieces
    name: str = "the page"

    def open(self, tracks: Tracks) -> "FragmentOutput":
        return FragmentOutput(tracks, self.on_pieces)


class FragmentOutput:
    def __init__(self, tracks: Tracks, on_pieces: OnPieces) -> None:
        self._on_pieces = on_pieces
        beginning, scales = _beginning(tracks)
        self.mime = mime_of(beginning)
        # Players skip it; who passes pieces on sees by it that the times are counted anew.
        self.beginning = beginning + _box(b"free", secrets.token_bytes(8))
        frame = scales[True] / tracks.fps
        assert frame.denominator == 1, "FFmpeg's time scale of a picture track is a multiple of the frame rate"
        self._units = {True: frame.numerator, False: 1}
        self._number = 0

    def take(self, packets: Sequence[Packet]) -> None:
        pieces = [self._piece(piece) for piece in _from_keyframes(packets)]
        if pieces:
            self._on_pieces(self.beginning, self.mime, pieces)

    def close(self) -> None:
        """Nothing is held back."""

    def _piece(self, packets: list[Packet]) -> Piece:
        tracks = [(kind, [packet for packet in packets if packet.is_picture is kind]) for kind in (True, False)]
        runs = [self._run(kind, chosen) for kind, chosen in tracks if chosen]
        self._number += 1
        return Piece(_fragment(self._number, runs), starts=any(packet.is_key for packet in packets))

    def _run(self, is_picture: bool, packets: list[Packet]) -> "_Run":
        unit = self._units[is_picture]
        # FFmpeg's edit list counts from the first packet of sound, which lies before the first picture.
        start = packets[0].time * unit + (0 if is_picture else PRIMING)
        samples = [
            (_in_lengths(packet.data) if is_picture else packet.data, packet.duration * unit, packet.is_key)
            for packet in packets
        ]
        return _Run(PICTURE_TRACK if is_picture else SOUND_TRACK, start, samples)


@dataclass(frozen=True)
class _Run:
    """Samples (data, duration, whether it is a keyframe) of a track, one after the other; start: in its time scale."""

    track: int
    start: int
    samples: list[tuple[bytes, int, bool]]


def _from_keyframes(packets: Sequence[Packet]) -> list[list[Packet]]:
    """A new part for each keyframe, with the sound that comes just before it, which is its own."""
    parts: list[list[Packet]] = []
    sound: list[Packet] = []
    for packet in packets:
        sound.append(packet)
        if packet.is_picture:
            if packet.is_key or not parts:
                parts.append([])
            parts[-1].extend(sound)
            sound = []
    if not parts and sound:
        return [sound]
    if parts:
        parts[-1].extend(sound)
    return parts


def _beginning(tracks: Tracks) -> tuple[bytes, dict[bool, int]]:
    """FTYP and MOOV of a file of these tracks, and the time scales (units a second) in it, by whether it is the
    picture's."""
    file = BytesIO()
    options = {"movflags": "delay_moov+default_base_moof+frag_keyframe+skip_trailer"}
    muxer = Muxer(file, "mp4", options, tracks)
    # With delay_moov it is written as soon as the first times are known; what the packets hold does not matter.
    if tracks.sound is not None:
        muxer.mux([Packet(bytes(8), -PRIMING, PRIMING, is_picture=False)])
    muxer.mux([Packet(b"\x00\x00\x00\x01\x65\x88", 0, 1, is_picture=True, is_key=True)])
    scales = muxer.time_scales()
    muxer.close()
    data = file.getvalue()
    end = data.index(MOOF) - 4
    return data[:end], scales


def _in_lengths(picture: bytes) -> bytes:
    """A picture whose parts have their lengths in front, as in MP4, in place of start codes."""
    parts = [part for part in START_CODE.split(picture) if part]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _box(kind: bytes, *content: bytes) -> bytes:
    data = b"".join(content)
    return struct.pack(">I4s", len(data) + 8, kind) + data


def _fragment(number: int, runs: Sequence[_Run]) -> bytes:
    """MOOF and MDAT of an MP4: ISO/IEC 14496-12, 8.8."""
    size = len(_header(number, runs, 0))
    data = b"".join(sample for run in runs for sample, _, _ in run.samples)
    return _header(number, runs, size + 8) + _box(b"mdat", data)


def _header(number: int, runs: Sequence[_Run], place: int) -> bytes:
    """place: of the first sample's data, counted from the header."""
    parts: list[bytes] = [_box(b"mfhd", struct.pack(">II", 0, number & 0xFFFFFFFF))]
    for run in runs:
        # Flags: data counts from this header; time with 64 bits; place of the data, and of each sample all but an
        # offset.
        parts.append(
            _box(
                b"traf",
                _box(b"tfhd", struct.pack(">II", 0x020000, run.track)),
                _box(b"tfdt", struct.pack(">IQ", 0x01000000, run.start)),
                _box(b"trun", struct.pack(">III", 0x000701, len(run.samples), place), *_entries(run)),
            )
        )
        place += sum(len(sample) for sample, _, _ in run.samples)
    return _box(MOOF, *parts)


def _entries(run: _Run) -> list[bytes]:
    is_sound = run.track == SOUND_TRACK
    return [
        struct.pack(">III", duration, len(sample), KEY_FLAGS if is_key or is_sound else OTHER_FLAGS)
        for sample, duration, is_key in run.samples
    ]
