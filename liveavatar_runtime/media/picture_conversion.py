"""Pictures as arrays to frames in a file's pixel format."""

from typing import Any

import numpy as np
import torch

from ..errors import InputError
from .codecs import PixelFormat

RGB, RGBA = 3, 4
TYPES = {8: np.uint8, 10: np.uint16}
"""Of a value, by its bits in the file."""
SOURCES = {(8, RGB): "rgb24", (10, RGB): "rgb48le", (8, RGBA): "rgba"}
"""What PyAV calls pictures of so many bits and channels."""


class PictureConverter:
    """For one file: width x height pixels in `pixels`. Pictures without alpha become opaque where the file has it."""

    def __init__(self, pixels: PixelFormat, width: int, height: int) -> None:
        from av.video.reformatter import VideoReformatter

        self._pixels, self._width, self._height = pixels, width, height
        # One for all frames: its tables take longer to make than a small picture takes to convert.
        self._reformatter: Any = VideoReformatter()

    def checked(self, frames: torch.Tensor | np.ndarray) -> np.ndarray:
        """Pictures [T, H, W, 3], with alpha also [T, H, W, 4], as an array. Raises InputError for others."""
        pictures = frames.cpu().numpy() if isinstance(frames, torch.Tensor) else np.asarray(frames)
        accepted = TYPES[self._pixels.bits]
        channels = (RGB, RGBA) if self._pixels.has_alpha else (RGB,)
        shapes = [(self._height, self._width, count) for count in channels]
        if pictures.dtype != accepted or pictures.ndim != 4 or pictures.shape[1:] not in shapes:
            wanted = " or ".join(f"[frames, {self._height}, {self._width}, {count}]" for count in channels)
            raise InputError(
                f"The frames are {pictures.dtype} {list(pictures.shape)}; this file takes {np.dtype(accepted)} "
                f"{wanted}."
            )
        return pictures

    def frame(self, picture: np.ndarray) -> Any:
        """PyAV's frame of a picture [H, W, 3 or 4], without a time."""
        import av

        source = SOURCES[self._pixels.bits, picture.shape[2]]
        given = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=source)
        if self._pixels.is_rgb:
            return self._reformatter.reformat(given, format=self._pixels.name)
        colours = {"dst_colorspace": "ITU709", "dst_color_range": "MPEG"}
        return self._reformatter.reformat(given, format=self._pixels.name, **colours)
