"""Reads video files back."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..disk import what_to_do
from ..errors import InputError, reason_of, replaced

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer


ALPHA_DECODER, ALPHA_FORMAT = "libvpx-vp9", "yuva420p"
"""FFmpeg's own decoder of VP9 leaves alpha out, and tells the format without it."""


def rgb_of(frame: "VideoFrame", bits: int = 8) -> np.ndarray:
    """A decoded frame as uint8 [H, W, 3], or as uint16 (0..65535) for more than 8 bits."""
    return _array_of(frame, "rgb24" if bits == 8 else "rgb48le")


def rgba_of(frame: "VideoFrame") -> np.ndarray:
    """A decoded frame with alpha as uint8 [H, W, 4]."""
    return _array_of(frame, "rgba")


def _array_of(frame: "VideoFrame", kind: str) -> np.ndarray:
    # Naming the range makes every PyAV since 14 use the file's colour matrix; older ones assume BT.601 otherwise.
    return frame.reformat(format=kind, dst_color_range="JPEG").to_ndarray()


def has_alpha_beside(stream: Any) -> bool:
    """Whether a stream of VP9 has alpha beside its pictures."""
    return {name.lower(): value for name, value in stream.metadata.items()}.get("alpha_mode") == "1"


def pixel_format_of(stream: Any) -> str:
    """FFmpeg's name of the format of a stream's pictures, alpha included."""
    return ALPHA_FORMAT if has_alpha_beside(stream) else str(stream.codec_context.pix_fmt)


class FrameDecoder:
    """Decodes the packets of a picture stream, also alpha."""

    def __init__(self, stream: Any) -> None:
        from av.codec.context import CodecContext

        self._context: Any = None
        if has_alpha_beside(stream):
            self._context = CodecContext.create(ALPHA_DECODER, "r")

    def decode(self, packet: "Packet") -> "list[Any]":
        """Frames, of the packet that ends the stream those that are left."""
        if self._context is None:
            return packet.decode()
        return self._context.decode(packet if packet.size else None)


@contextmanager
def opened(source: str | Path | BytesIO) -> "Iterator[InputContainer]":
    """The file, open and with a picture stream; every way in which it cannot be read is an InputError."""
    import av
    from av.error import FFmpegError

    in_memory = isinstance(source, BytesIO)
    name = "The video" if in_memory else str(source)

    def unreadable(error: FFmpegError) -> InputError:
        refused = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
        advice = what_to_do(error) if refused else "Give an existing video file."
        return InputError(f"{name} cannot be read as a video: {reason_of(error)}. {advice}")

    with replaced(FFmpegError, unreadable), av.open(source if in_memory else str(source)) as container:
        if not container.streams.video:
            raise InputError(f"{name} has no video stream. Give a video file.")
        yield container
