"""Sound of a source, at any rate, as a stream at 48 kHz."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .samples import SOUND_RATE, Samples, silence

LOWEST_RATE, HIGHEST_RATE = 8_000, 192_000
_FULL_SCALE = 2**15
"""Of int16."""


class RateConversion:
    """Samples at `rate` to samples at 48 kHz, piece by piece; the pieces join without a seam.

    Raises InputError for a rate that is not a whole number of 8,000 to 192,000 Hz.
    """

    def __init__(self, rate: int) -> None:
        if isinstance(rate, bool) or not isinstance(rate, int) or not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise InputError(
                f"the sound's rate is {rate!r}; allowed are {LOWEST_RATE} to {HIGHEST_RATE} samples a second. Give it "
                "as a whole number, such as 16000, 24000 or 48000."
            )
        self.rate = rate
        self._resampler = None if rate == SOUND_RATE else self._made()

    @staticmethod
    def _made() -> Any:
        import av

        return av.AudioResampler(format="flt", layout="mono", rate=SOUND_RATE)

    def convert(self, samples: Samples) -> Samples:
        """What is known of the sound at 48 kHz with this piece; up to 2 ms come with the next one."""
        if self._resampler is None or not len(samples):
            return samples
        import av

        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate = self.rate
        return self._joined(self._resampler.resample(frame))

    def end(self) -> Samples:
        """The rest; nothing may be converted afterwards."""
        return silence(0) if self._resampler is None else self._joined(self._resampler.resample(None))

    @staticmethod
    def _joined(frames: Any) -> Samples:
        def parts() -> Iterator[Samples]:
            yield silence(0)
            yield from (frame.to_ndarray()[0] for frame in frames)

        return np.concatenate(list(parts()))


def pcm(samples: NDArray[Any]) -> Samples:
    """[n] of float32 in -1..1 or int16 as float32. Raises InputError for anything else, and for values that are no
    numbers."""
    if samples.ndim != 1 or samples.dtype not in (np.float32, np.int16):
        raise InputError(
            f"the sound is {samples.dtype} of shape {samples.shape}; it must be one channel of samples [n], as float32 "
            "in -1..1 or int16."
        )
    if samples.dtype == np.int16:
        return np.asarray(samples.astype(np.float32) / _FULL_SCALE, np.float32)
    if not np.isfinite(samples).all():
        raise InputError("the sound has samples that are NaN or infinite; check the program that makes it.")
    return np.ascontiguousarray(samples)
