"""A live video pushed to RTMP servers, which the user has named in a file.

FFmpeg's fifo muxer connects and writes in a thread of its own, with a queue in front of it: when the network is too
slow the queue is emptied, and what follows begins with a keyframe. PyAV alone would connect while it keeps all other
threads of Python waiting.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import InputError, replaced
from ..reading import parse_json, readable
from .packets import Muxer, Packet, Tracks

TARGETS_FILE = "push_targets.json"
LARGEST_FILE = 2**16
MOST_TARGETS = 50
NAME = re.compile(r"[\w .-]{1,60}")
SCHEMES = ("rtmp", "rtmps")
QUEUE_SECONDS = 2.0
SILENCE_SECONDS = 5.0
"""A server that says nothing for so long has gone."""
EXAMPLE = '{"my channel": "rtmp://..."}'
DAYS_OF_A_CONNECTION = 20
"""The times in FLV are milliseconds in 31 bits."""


@dataclass(frozen=True)
class Push:
    """Output: an RTMP server. name: of the target; its address has a key in it, which no text may show."""

    name: str
    address: str

    def open(self, tracks: Tracks) -> "PushOutput":
        return PushOutput(self.address, tracks)


class PushOutput:
    """Raises what FFmpeg's thread has met at the next `take`, and TimeoutError when a connection is as old as one can
    be."""

    def __init__(self, address: str, tracks: Tracks) -> None:
        rate = float(tracks.fps) + (tracks.sound_rate / 1024 if tracks.sound is not None else 0)
        patience = f"rw_timeout={int(SILENCE_SECONDS * 1_000_000)}"
        options = {
            "fifo_format": "flv",
            "queue_size": str(int(rate * QUEUE_SECONDS)),
            "drop_pkts_on_overflow": "1",
            "restart_with_keyframe": "1",
            "attempt_recovery": "0",
            "format_opts": f"flvflags=no_duration_filesize:{patience}",
        }
        self._muxer = Muxer(address, "fifo", options, tracks)
        self._last = int(DAYS_OF_A_CONNECTION * 86400 * tracks.fps)

    def take(self, packets: Sequence[Packet]) -> None:
        if any(packet.is_picture and packet.time > self._last for packet in packets):
            raise TimeoutError(f"the connection is {DAYS_OF_A_CONNECTION} days old")
        self._muxer.mux(packets)

    def close(self) -> None:
        self._muxer.close()


def read_push_targets(folder: Path) -> dict[str, str]:
    """Names and addresses in `push_targets.json` of a folder; none where there is no such file. Raises InputError,
    which names the file and shows no address."""
    path = folder / TARGETS_FILE
    if not path.is_file():
        return {}
    with readable(path):
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise InputError(f"{path} is longer than {LARGEST_FILE} bytes, so it is no list of targets.")
        with replaced(ValueError, lambda error: InputError(f"{path} is no JSON ({error}). It is like {EXAMPLE}.")):
            found = parse_json(data.decode("utf-8"))
    if not isinstance(found, dict) or len(found) > MOST_TARGETS:
        raise InputError(f"{path} must be an object of at most {MOST_TARGETS} names and addresses, like {EXAMPLE}.")
    return {name: _checked(path, name, address) for name, address in found.items()}


def _checked(path: Path, name: str, address: object) -> str:
    if not NAME.fullmatch(name):
        raise InputError(f"{path} has a target {name!r}; names have up to 60 letters, digits, spaces, dots and dashes.")
    with replaced(ValueError, lambda _: InputError(f"The address of {name} in {path} is none.")):
        parts = urlsplit(address) if isinstance(address, str) else None
        usable = parts is not None and parts.scheme in SCHEMES and bool(parts.hostname) and parts.port != 0
    if not usable or not isinstance(address, str) or not address.isprintable() or " " in address:
        raise InputError(f"The address of {name} in {path} must begin with rtmp:// or rtmps:// and name a server.")
    return address
