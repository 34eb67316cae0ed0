"""How long the sound of a file is, without keeping it."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from ..errors import InputError
from ..reading import readable


@dataclass(frozen=True)
class SoundLength:
    """Samples of each channel, and how many of them are a second."""

    samples: int
    sample_rate: int

    @property
    def seconds(self) -> Fraction:
        return Fraction(self.samples, self.sample_rate)


def sound_length(path: Path) -> SoundLength:
    """Of the first sound track of a sound or video file, counted in what its decoder gives.

    That is what ComfyUI's Load Audio loads, to the sample; a header may say more or less (MP3, AAC). Raises InputError
    for a file without sound and one that cannot be decoded.
    """
    import av

    with readable(path, "a sound"), av.open(str(path)) as file:
        if not file.streams.audio:
            raise InputError(f"{path} has no sound track")
        stream = file.streams.audio[0]
        samples = sum(frame.samples for frame in file.decode(stream))
        if not samples:
            raise InputError(f"the sound of {path} is empty")
        return SoundLength(samples, stream.codec_context.sample_rate)
