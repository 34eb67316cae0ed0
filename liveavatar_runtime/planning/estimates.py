"""What a video will take before anything is known of it but its length and size: the file's bytes, the time.

`web/estimates.js` has the same for the page; tests/runtime/time_cases.json tests both.
"""

from dataclasses import dataclass

from ..duration import FRAMES_PER_BLOCK, format_estimate
from ..texts import size_text
from .ranges import CLOSE, Range

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

    def text(self, frames: int, seconds: float) -> str:
        """The same in words: "3.1 MiB to 14.2 MiB"."""
        low, high = self.size(frames, seconds)
        return f"{size_text(low)} to {size_text(high)}"


def file_rates(width: int, height: int) -> FileRates:
    """Of a video of so many pixels with sound."""
    least, most = BITS_PER_PIXEL
    mono, stereo = SOUND_BITS
    pixels = width * height
    return FileRates((least * pixels / 8, most * pixels / 8), (mono / 8, stereo / 8))


def making_time(frames: int, fps: Range, first_block: Range) -> Range:
    """Seconds that a video of so many frames takes."""
    others = max(0, frames - FRAMES_PER_BLOCK)
    return first_block.plus(fps.inverse(others)) if others else first_block


def estimate_text(seconds: Range) -> str:
    """ "12 min", "10 min to 14 min"."""
    low, high = format_estimate(seconds.low), format_estimate(seconds.high)
    if low == high or seconds.high - seconds.low < CLOSE * seconds.likely:
        return format_estimate(seconds.likely)
    return f"{low} to {high}"
