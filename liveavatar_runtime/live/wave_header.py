"""The head of a WAV file that may still be written, whose sizes are not true yet."""

import struct
from dataclasses import dataclass
from typing import BinaryIO

from ..errors import InputError

_PCM, _EXTENSIBLE = 1, 0xFFFE
_LONGEST = 1 << 16
"""Bytes before the samples: more is no head."""


@dataclass(frozen=True)
class WaveFormat:
    """Samples of 16 bits."""

    rate: int
    channels: int

    @property
    def frame_bytes(self) -> int:
        return 2 * self.channels


def read_wave_header(file: BinaryIO) -> WaveFormat | None:
    """What the file holds; then it is at its first sample. None when too little is written to tell, and it is where it
    was. Raises InputError for anything but PCM of 16 bits with 1 to 8 channels."""
    start = file.tell()
    found = _read(file)
    if found is None:
        file.seek(start)
    return found


def _read(file: BinaryIO) -> WaveFormat | None:
    head = file.read(12)
    if len(head) < 12:
        return None
    if head[:4] not in (b"RIFF", b"RF64") or head[8:] != b"WAVE":
        raise InputError("this is no WAV file. Write a WAV file of 16 bit samples, or raw samples with another ending.")
    form: WaveFormat | None = None
    while file.tell() < _LONGEST:
        chunk = file.read(8)
        if len(chunk) < 8:
            return None
        name, size = struct.unpack("<4sI", chunk)
        if name == b"data" and form is not None:
            return form
        body = file.read(min(size + size % 2, _LONGEST))
        if len(body) < size + size % 2:
            return None
        if name == b"fmt ":
            form = _format(body)
    raise InputError("this WAV file has no samples in its first 64 KiB. Write it again.")


def _format(body: bytes) -> WaveFormat:
    kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", body.ljust(16, b"\0"))
    if kind not in (_PCM, _EXTENSIBLE) or bits != 16 or not 1 <= channels <= 8:
        raise InputError(
            f"this WAV file has {channels} channels of {bits} bit samples of kind {kind}; read while it grows are 1 to "
            "8 channels of 16 bit PCM (kind 1). Let the program write that."
        )
    return WaveFormat(rate, channels)
