"""The sound track of a video file: samples wait until their picture is written, then become packets."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError

if TYPE_CHECKING:
    from av import AudioFrame
    from av.container import OutputContainer

FALLBACK_RATE = 48000
LAYOUTS = {1: "mono", 2: "stereo"}


@dataclass(frozen=True)
class SoundCodec:
    """How sound is stored. Rates outside `kept_rates` (None: all are kept) become 48 kHz; a lossless codec has no bit
    rate (a channel, a second)."""

    encoder: str
    sample_format: str
    kept_rates: tuple[int, ...] | None
    bit_rate: int | None
    options: Mapping[str, str] = field(default_factory=dict)

    def stored_rate(self, sample_rate: int) -> int:
        return sample_rate if self.kept_rates is None or sample_rate in self.kept_rates else FALLBACK_RATE


SOUND_CODECS: dict[str, SoundCodec] = {
    # A packet has 1024 samples: at lower rates the decoded sound could end more than a frame after the picture.
    # FFmpeg's other coder garbles the first 20 ms of a sudden start and is 13 dB noisier on speech at this rate.
    "aac": SoundCodec("aac", "fltp", (44100, 48000, 88200, 96000), 128_000, {"aac_coder": "fast"}),
    "opus": SoundCodec("libopus", "flt", (48000,), 96_000),
    "flac": SoundCodec("flac", "s32", None, None),
}


def check_sound(sample_rate: int, channels: int) -> None:
    """Raises InputError unless a file can have a sound track of these samples."""
    if channels not in LAYOUTS:
        raise InputError(f"The sound has {channels} channels; a video file takes 1 or 2. Mix it down first.")
    if sample_rate < 1:
        raise InputError(f"The sound's sample rate is {sample_rate}; it must be at least 1 Hz, usually 16000 to 48000.")


class SoundTrack:
    """Queue, resampler and encoder of one file.

    sample_rate: of the samples given; rates that suit the codec badly are stored at 48 kHz. channels: 1 or 2.
    codec: a name in `SOUND_CODECS`.
    """

    def __init__(self, container: "OutputContainer", sample_rate: int, channels: int, codec: str = "aac") -> None:
        import av

        settings = SOUND_CODECS[codec]

        self.sample_rate, self.channels = sample_rate, channels
        self.taken = 0
        self._waiting: deque[np.ndarray] = deque()
        stored_rate = settings.stored_rate(sample_rate)
        self.stream: Any = container.add_stream(settings.encoder, rate=stored_rate, layout=LAYOUTS[channels])
        self.stream.options = dict(settings.options)
        self.stream.codec_context.format = settings.sample_format
        if settings.bit_rate is not None:
            self.stream.bit_rate = settings.bit_rate * channels
        self._resampler = av.AudioResampler(format=settings.sample_format, layout=LAYOUTS[channels], rate=stored_rate)

    def append(self, samples: np.ndarray) -> None:
        """Queue float32 [C, S]. Raises InputError for another shape and for values that are not finite."""
        if samples.ndim != 2 or samples.shape[0] != self.channels:
            raise InputError(f"The sound is {list(samples.shape)}; this file takes [{self.channels}, samples].")
        if not np.isfinite(samples).all():
            raise InputError("The sound has values that are not numbers (NaN or infinity): give finite samples.")
        self._waiting.append(samples)

    def frames_until(self, end: int, fill: bool = False) -> "list[AudioFrame]":
        """What is queued of the samples before `end` (of the whole track), ready to encode; `fill` adds silence."""
        parts: list[np.ndarray] = []
        while self._waiting and self.taken < end:
            part = self._waiting.popleft()
            room = end - self.taken
            if part.shape[1] > room:
                self._waiting.appendleft(part[:, room:])
                part = part[:, :room]
            parts.append(part)
            self.taken += part.shape[1]
        if fill and self.taken < end:
            parts.append(np.zeros((self.channels, end - self.taken), np.float32))
            self.taken = end
        return self._resampled(np.concatenate(parts, axis=1)) if parts else []

    def rest(self) -> "list[AudioFrame]":
        """What the resampler still holds at the end."""
        return self._resampler.resample(None)

    def _resampled(self, samples: np.ndarray) -> "list[AudioFrame]":
        import av

        if not samples.shape[1]:
            return []
        clipped = np.ascontiguousarray(np.clip(samples, -1.0, 1.0))
        frame = av.AudioFrame.from_ndarray(clipped, format="fltp", layout=LAYOUTS[self.channels])
        frame.sample_rate, frame.time_base = self.sample_rate, Fraction(1, self.sample_rate)
        frame.pts = self.taken - samples.shape[1]
        return self._resampler.resample(frame)
