"""How large a video file will be, roughly: an encoder of constant quality takes what the pictures need."""

from dataclasses import dataclass

BITS_PER_PIXEL = (0.05, 0.3)
"""Of h264 at crf 18, the default. The least: a talking head whose background stands still (0.05 to 0.08 measured). The
most: one that is filmed in a driving car (0.25 to 0.27 measured; the sequence "carphone")."""
SOUND_BITS = (128_000, 256_000)
"""A second: AAC, mono and stereo."""


@dataclass(frozen=True)
class FileRates:
    """Bytes (least, most) of a frame and of a second of sound."""

    frame: tuple[float, float]
    second: tuple[float, float]

    def size(self, frames: int, seconds: float) -> tuple[float, float]:
        """Bytes of a file of so many frames, which last so long."""
        low, high = (frames * frame + seconds * sound for frame, sound in zip(self.frame, self.second, strict=True))
        return low, high


def file_rates(width: int, height: int) -> FileRates:
    """Of a video of so many pixels with sound."""
    least, most = BITS_PER_PIXEL
    mono, stereo = SOUND_BITS
    pixels = width * height
    return FileRates((least * pixels / 8, most * pixels / 8), (mono / 8, stereo / 8))
