"""Reads video files back."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..disk import what_to_do
from ..errors import InputError, reason_of, replaced

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer


def rgb_of(frame: "VideoFrame", bits: int = 8) -> np.ndarray:
    """A decoded frame as uint8 [H, W, 3], or as uint16 (0..65535) for more than 8 bits."""
    # Naming the range makes every PyAV since 14 use the file's colour matrix; older ones assume BT.601 otherwise.
    return frame.reformat(format="rgb24" if bits == 8 else "rgb48le", dst_color_range="JPEG").to_ndarray()


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
