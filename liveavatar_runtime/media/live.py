"""What a growing video file has gained, in pieces that a player can be given while the file is still written.

The bytes are read by the thread that writes, between two writes, and the file is closed again at once: a reader that
kept it open would keep Windows from replacing it at the end.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MOOF, MOOV = b"moof", b"moov"
BOX_HEADER = 8
CLUSTER = b"\x1f\x43\xb6\x75"
TIMESTAMP, SIMPLE_BLOCK, VOID = b"\xe7", b"\xa3", b"\xec"
BLOCK_GROUP, BLOCK, REFERENCE = b"\xa0", b"\xa1", b"\xfb"
PICTURE_TRACK = 1
"""Number of the picture in files of `VideoWriter`."""
NOT_SYNC = 0x10000
"""In the flags of an MP4's sample: it needs others to be decoded."""
EARLIEST = -(2**15)
"""Of the times in a cluster's blocks."""
KEYFRAME = 0x80
"""In the flags of a Matroska block."""
DEFAULT_FLAGS = 0x20
FIRST_FLAGS, SAMPLE_FLAGS = 0x4, 0x400


@dataclass(frozen=True)
class Piece:
    """Whole fragments of a video; a player that has the beginning can start with one that `starts` with a keyframe."""

    data: bytes
    starts: bool


class LiveFile:
    """Follows a growing file of `VideoWriter`.

    `beginning`: what every player needs first, b"" until it is there; `mime`: its kind with codecs, as a browser is
    asked for it, "" where no browser plays such a file while it grows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.beginning = b""
        self._read, self._rest = 0, b""

    @property
    def mime(self) -> str:
        return mime_of(self.beginning)

    def news(self) -> list[Piece]:
        """What is whole and new since the last call. Only for the thread that writes. Raises OSError."""
        with self.path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        self._read += len(new)
        data = self._rest + new
        is_matroska = _is_matroska(self.beginning or data)
        fragments = _clusters(data) if is_matroska else _fragments(data)
        pieces: list[tuple[bytearray, bool]] = []
        taken = 0
        for start, end, is_key in fragments:
            if not self.beginning:
                self.beginning, taken = data[:start], start
            if is_key or not pieces:
                pieces.append((bytearray(), is_key))
            pieces[-1][0].extend(_in_order(data[taken:end]) if is_matroska else data[taken:end])
            taken = end
        self._rest = data[taken:]
        return [Piece(bytes(fragment), is_key) for fragment, is_key in pieces]


def padding(size: int, mime: str) -> bytes:
    """An element of `size` bytes that players skip, in a file of this kind. size: 9 to 2**28 - 1."""
    if mime.startswith("video/webm"):
        return VOID + (0x10000000 | (size - 5)).to_bytes(4, "big") + bytes(size - 5)
    return size.to_bytes(4, "big") + b"free" + bytes(size - BOX_HEADER)


def mime_of(beginning: bytes) -> str:
    """Of a file of `codecs.CODECS` that begins like this: "" for one that is no MP4 and no WebM, or not complete."""
    if _is_matroska(beginning):
        return 'video/webm; codecs="vp9, opus"' if b"V_VP9" in beginning else ""
    picture = _picture_codec(beginning)
    sound = ", mp4a.40.2" if b"mp4a" in beginning else ""
    return f'video/mp4; codecs="{picture}{sound}"' if picture else ""


def _picture_codec(moov: bytes) -> str:
    """As RFC 6381 writes it, of the configuration in a MOOV box; "" if there is none of ours."""
    place = moov.find(b"avcC")
    if place >= 0:
        return f"avc1.{moov[place + 5 : place + 8].hex()}"
    place = moov.find(b"av1C")
    if place >= 0:
        profile, level = moov[place + 5] >> 5, moov[place + 5] & 31
        tier, bits = "MH"[bool(moov[place + 6] & 128)], 10 if moov[place + 6] & 64 else 8
        return f"av01.{profile}.{level:02}{tier}.{bits:02}"
    return "hvc1.1.6.L120.B0" if b"hvcC" in moov else ""


def _is_matroska(data: bytes) -> bool:
    return data.startswith(b"\x1a\x45\xdf\xa3")


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start of the content, end) of the whole boxes in data[start:end]."""
    while start + BOX_HEADER <= end:
        size = int.from_bytes(data[start : start + 4], "big")
        if size < BOX_HEADER or start + size > end:
            return
        yield data[start + 4 : start + 8], start + BOX_HEADER, start + size
        start += size


def _fragments(data: bytes) -> Iterator[tuple[int, int, bool]]:
    """(start, end, whether it starts with a keyframe) of an MP4's whole fragments: a MOOF box and all up to the next
    one's, which is its MDAT box."""
    moof: tuple[int, bool] | None = None
    for kind, start, end in _boxes(data, 0, len(data)):
        if kind == MOOF:
            moof = start - BOX_HEADER, _moof_has_key(data, start, end)
        elif moof is not None:
            yield moof[0], end, moof[1]
            moof = None


def _moof_has_key(data: bytes, start: int, end: int) -> bool:
    """Whether the first picture of a MOOF box, if there is one, is a keyframe."""
    for kind, first, last in _boxes(data, start, end):
        if kind == b"traf":
            parts = {name: data[begin:stop] for name, begin, stop in _boxes(data, first, last)}
            header, run = parts.get(b"tfhd", b""), parts.get(b"trun", b"")
            if _number(header, 4) == PICTURE_TRACK and _number(run, 4):
                return not _first_flags(header, run) & NOT_SYNC
    return False


def _number(data: bytes, place: int) -> int:
    return int.from_bytes(data[place : place + 4], "big")


def _first_flags(header: bytes, run: bytes) -> int:
    """Flags of the first sample of a TRUN box, which may stand in the TFHD box for all."""
    given = _number(run, 0) & 0xFFFFFF
    place = 8 + 4 * bool(given & 0x1)
    if given & FIRST_FLAGS:
        return _number(run, place)
    if given & SAMPLE_FLAGS:
        return _number(run, place + 4 * bool(given & 0x100) + 4 * bool(given & 0x200))
    # Of the fields of TFHD it is the last.
    return _number(header, len(header) - 4) if _number(header, 0) & DEFAULT_FLAGS else NOT_SYNC


def _clusters(data: bytes) -> Iterator[tuple[int, int, bool]]:
    """(start, end, whether it starts with a keyframe) of the whole clusters of a Matroska file."""
    start = data.find(CLUSTER)
    while start >= 0 and data[start : start + 4] == CLUSTER:
        content, size = _size(data, start + 4)
        if not content or content + size > len(data):
            return
        yield start, content + size, _cluster_has_key(data, content, content + size)
        start = content + size


def _in_order(cluster: bytes) -> bytes:
    """A whole cluster whose blocks follow each other by the times that are written in it.

    FFmpeg orders them by when they are heard, which for Opus is a few milliseconds earlier; Chromium refuses that.
    """
    content, size = _size(cluster, len(CLUSTER))
    parts, start = list[tuple[int, bytes]](), content
    for kind, place, end in _elements(cluster, content, content + size):
        if kind == BLOCK_GROUP:
            place = next((begin for name, begin, _ in _elements(cluster, place, end) if name == BLOCK), place)
        is_block = kind in (SIMPLE_BLOCK, BLOCK_GROUP)
        # Relative to the cluster's time, which stands before the blocks.
        time = int.from_bytes(cluster[place + 1 : place + 3], "big", signed=True) if is_block else EARLIEST
        parts.append((time, cluster[start:end]))
        start = end
    return cluster[:content] + b"".join(part for _, part in sorted(parts, key=lambda part: part[0]))


def _cluster_has_key(data: bytes, start: int, end: int) -> bool:
    for kind, content, after in _elements(data, start, end):
        if kind == SIMPLE_BLOCK and data[content] & 0x7F == PICTURE_TRACK:
            return bool(data[content + 3] & KEYFRAME)
        # Pictures with alpha are in groups, and a keyframe is what refers to no other.
        if kind == BLOCK_GROUP:
            parts = {name: place for name, place, _ in _elements(data, content, after)}
            if BLOCK in parts and data[parts[BLOCK]] & 0x7F == PICTURE_TRACK:
                return REFERENCE not in parts
        elif kind not in (SIMPLE_BLOCK, TIMESTAMP):
            return False
    return False


def _elements(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start of the content, end) of the whole Matroska elements in data[start:end]."""
    while start < end and data[start]:
        length = 9 - data[start].bit_length()
        content, size = _size(data, start + length)
        if not content:
            return
        yield data[start : start + length], content, content + size
        start = content + size


def _size(data: bytes, place: int) -> tuple[int, int]:
    """(where the content begins, its bytes) by the size field of a Matroska element; (0, 0) where it is cut off."""
    if place >= len(data) or not data[place]:
        return 0, 0
    length = 9 - data[place].bit_length()
    field = data[place : place + length]
    return (place + length, int.from_bytes(field, "big") & ((1 << 7 * length) - 1)) if len(field) == length else (0, 0)
