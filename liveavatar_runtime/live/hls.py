"""A live video for players of HLS: a playlist and fragmented MP4 in a folder, of which only a window is kept."""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .packets import Muxer, Packet, Tracks

PLAYLIST, BEGINNING = "live.m3u8", "begin.mp4"
FILE_NAME = re.compile(r"live\.m3u8|begin\.mp4|part[0-9]{1,12}\.m4s")
"""Of what a player may ask for."""
KINDS = {"m3u8": "application/vnd.apple.mpegurl", "mp4": "video/mp4", "m4s": "video/mp4"}
"""How a server calls files of these endings."""
LISTED, LEFT_BEHIND = 6, 2
"""Parts, of a keyframe to the next one, in the playlist, and those before it that slow players may still load."""


@dataclass(frozen=True)
class HlsWindow:
    """Output: files in a folder, which is made and at the end removed; at most eleven of them."""

    folder: Path
    name: str = "HLS"

    def open(self, tracks: Tracks) -> "HlsOutput":
        return HlsOutput(self.folder, tracks)


class HlsOutput:
    def __init__(self, folder: Path, tracks: Tracks) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        _remove_files(folder)
        # A little less than it is, so that every keyframe begins a part.
        seconds = (tracks.gop - 0.5) / float(tracks.fps)
        options = {
            "hls_time": f"{seconds:.6f}",
            "hls_list_size": str(LISTED),
            "hls_delete_threshold": str(LEFT_BEHIND),
            "hls_segment_type": "fmp4",
            "hls_fmp4_init_filename": BEGINNING,
            "hls_segment_filename": str(folder / "part%d.m4s"),
            "hls_flags": "delete_segments+temp_file+independent_segments",
            # Without it FFmpeg's muxer would remember the place of every fragment.
            "hls_segment_options": "movflags=+skip_trailer",
        }
        self._muxer = Muxer(str(folder / PLAYLIST), "hls", options, tracks)

    def take(self, packets: Sequence[Packet]) -> None:
        self._muxer.mux(packets)

    def close(self) -> None:
        try:
            self._muxer.close()
        finally:
            remove_window(self._folder)


def remove_window(folder: Path) -> None:
    """Removes a window, as far as nobody has its files open. What else is in the folder stays."""
    _remove_files(folder)
    with suppress(OSError):
        folder.rmdir()


def _remove_files(folder: Path) -> None:
    with suppress(OSError):
        for path in list(folder.iterdir()):
            if FILE_NAME.fullmatch(path.name.removesuffix(".tmp")):
                with suppress(OSError):
                    path.unlink()
