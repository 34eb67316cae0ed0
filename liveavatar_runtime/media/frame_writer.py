"""What decoded frames are written to."""

from typing import Protocol

from torch import Tensor


class FrameWriter(Protocol):
    """Where frames and sound go: a file (`media.video.VideoWriter`), or whoever watches (`live.writer.LiveWriter`).

    sound_ahead: samples of sound that it wants before their frames. writing_seconds: of what is encoded, to its place.
    """

    @property
    def bits(self) -> int:
        """Of a value in `write_frames`: 8 (uint8) or more (uint16)."""
        ...

    @property
    def sound_ahead(self) -> int: ...

    @property
    def frames_written(self) -> int: ...

    @property
    def writing_seconds(self) -> float: ...

    def write_frames(self, frames: Tensor) -> None:
        """Append pictures [T, H, W, 3 or 4]."""
        ...

    def write_audio(self, waveform: Tensor) -> None:
        """Append sound, float [C, S]."""
        ...

    def close(self) -> None: ...
