"""A voice that may go on: windows at fixed places of it, and what decides the features of its blocks."""

import hashlib
from bisect import bisect_right
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..duration import (
    ENCODER_FRAME_SAMPLES,
    ENCODER_MIN_SAMPLES,
    FEATURE_RATE,
    encoder_frames,
    fixed_bucket_count,
    fixed_bucket_position,
    frames_before_bucket,
)
from ..fingerprint import Fingerprint, byte_chunks
from .waveform import encoder_length, first_source_sample, settled_samples, source_samples
from .windows import Window

HASHED_TOGETHER = FEATURE_RATE // 10
"""Feature frames whose sound is hashed at once."""


@dataclass(frozen=True)
class BoundedContext:
    """How far the features of a voice see, in feature frames: window n keeps frames [n * step, (n + 1) * step), and is
    encoded with `look_back` frames before and `look_ahead` after them, as far as there is sound."""

    step: int
    look_back: int
    look_ahead: int

    def __post_init__(self) -> None:
        sizes = self.step, self.look_back, self.look_ahead
        assert self.step > 0 and min(sizes) >= 0 and not any(size % HASHED_TOGETHER for size in sizes), self

    def window(self, number: int, frames: int) -> Window:
        """Of a track of `frames` feature frames."""
        kept = number * self.step, min(frames, (number + 1) * self.step)
        stop = (number + 1) * self.step + self.look_ahead
        return Window(max(0, kept[0] - self.look_back), min(frames, stop), *kept)

    def windows(self, frames: int) -> list[Window]:
        """All of a track of `frames` feature frames, of which they keep each one once."""
        return [self.window(number, frames) for number in range(-(-frames // self.step))]

    def settled(self, frames: int) -> int:
        """First feature frames of a track that its sound after `frames` frames does not change: those of the windows
        which are whole."""
        return max(0, frames - self.look_ahead) // self.step * self.step


BOUNDED = BoundedContext(step=FEATURE_RATE, look_back=10 * FEATURE_RATE, look_ahead=FEATURE_RATE)


@dataclass(frozen=True)
class BoundedTrack:
    """How a bounded voice is encoded and kept; as `LongTrack`."""

    context: BoundedContext = BOUNDED
    dtype: torch.dtype = torch.float32
    folder: Path | None = None

    def windows(self, frames: int) -> list[Window]:
        return self.context.windows(frames)


@dataclass(frozen=True, eq=False)
class HeardSound:
    """The sound of one actor as a bounded voice hears it: waveform [C, S] of which the mean of the channels counts.

    `encoder`: hash of the audio encoder's weights, "" where they cannot be read.
    """

    waveform: Tensor
    sample_rate: int
    encoder: str
    context: BoundedContext = BOUNDED
    _hashes: list[bytes] = field(default_factory=list)

    @cached_property
    def frames(self) -> int:
        """Feature frames of all of it."""
        return encoder_frames(encoder_length(self.waveform.shape[-1], self.sample_rate))

    @cached_property
    def settled(self) -> int:
        """First feature frames that do not change when the sound goes on."""
        return self.context.settled(encoder_frames(settled_samples(self.waveform.shape[-1], self.sample_rate)))

    @property
    def key(self) -> str:
        """Hash of all that decides its features."""
        return self._key(Window(0, self.frames, 0, self.frames))

    def block_key(self, buckets: list[int]) -> str:
        """Hash of what decides the features of so many of its 30 Hz buckets, in this order: those after the end are
        silent. Of settled buckets it stays the same when the sound goes on."""
        heard = [bucket for bucket in buckets if bucket < fixed_bucket_count(self.frames)]
        fingerprint = Fingerprint().add("buckets", [*heard, *["silence"] * (len(buckets) - len(heard))])
        if heard:
            first, (last, between) = fixed_bucket_position(heard[0])[0], fixed_bucket_position(heard[-1])
            numbers = range(first // self.context.step, (last + (between > 0)) // self.context.step + 1)
            fingerprint.add("windows", [self._key(self.context.window(number, self.frames)) for number in numbers])
        return fingerprint.hexdigest()

    def _key(self, window: Window) -> str:
        """Of a window's sound, the place of it, and what encodes it."""
        start = bisect_right(self._borders, first_source_sample(window.start * ENCODER_FRAME_SAMPLES, self.sample_rate))
        stop = -(-window.stop // HASHED_TOGETHER)
        rule = Fingerprint().add("context", asdict(self.context)).add("encoder", self.encoder)
        rule.add("window", [window.start, window.stop]).add("rate", self.sample_rate)
        return rule.add("sound", b"".join(self._hash(n) for n in range(start - 1, stop)).hex()).hexdigest()

    @cached_property
    def _borders(self) -> list[int]:
        """Samples at which the sound is cut to be hashed: 0, then what the first `HASHED_TOGETHER` frames see, ..."""
        seen = range(HASHED_TOGETHER, self.frames + HASHED_TOGETHER, HASHED_TOGETHER)
        return [0, *(source_samples(samples_seen(frames), self.sample_rate) for frames in seen)]

    def _hash(self, number: int) -> bytes:
        while len(self._hashes) <= number:
            first, stop = self._borders[len(self._hashes) :][:2]
            mono = self.waveform[:, first:stop].float().mean(dim=0)
            self._hashes.append(hashlib.sha256(b"".join(byte_chunks(mono))).digest())
        return self._hashes[number]


def samples_seen(frames: int) -> int:
    """Samples at 16 kHz that the first `frames` feature frames see."""
    return (frames - 1) * ENCODER_FRAME_SAMPLES + ENCODER_MIN_SAMPLES if frames else 0


def settled_video_frames(feature_frames: int, fps: Fraction) -> int:
    """First video frames whose features are read from the first `feature_frames`."""
    return frames_before_bucket(fixed_bucket_count(feature_frames), fps)


def at_fixed_times(track: Tensor, buckets: list[int]) -> Tensor:
    """30 Hz buckets of a track [L, T, D] that lie at fixed times, whatever its length: [L, n, D] float32.

    All of them below `fixed_bucket_count(T)`.
    """
    places = [fixed_bucket_position(bucket) for bucket in buckets]
    low = torch.tensor([place for place, _ in places], dtype=torch.int64)
    weights = torch.tensor([float(weight) for _, weight in places])[None, :, None]
    return track[:, low].float() * (1 - weights) + track[:, low + 1].float() * weights
