"""A voice that may go on: windows at fixed places of it, and what decides the features of its blocks."""

import math
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..duration import (
    ENCODER_FRAME_SAMPLES,
    FEATURE_RATE,
    encoder_frames,
    fixed_bucket_count,
    fixed_bucket_position,
    frames_before_bucket,
)
from ..fingerprint import Fingerprint
from .level import Heard, Level, Memory
from .waveform import encoder_length, settled_samples, source_samples, to_encoder_rate_in_pieces
from .windows import Window, samples_seen

HEARD_TOGETHER = FEATURE_RATE // 10
"""Feature frames whose sound is one part of what was heard."""
PARTS_AT_ONCE = 600


@dataclass(frozen=True)
class BoundedContext:
    """How far the features of a voice see, in feature frames: window n keeps frames [n * step, (n + 1) * step), both
    rounded down, and is encoded with `look_back` frames before and `look_ahead` after them, as far as there is sound.

    memory: what decides the level of a window; None: all sound up to its end.
    """

    step: int | Fraction
    look_back: int
    look_ahead: int
    memory: Memory | None = None

    def __post_init__(self) -> None:
        sizes = self.step, self.look_back, self.look_ahead
        assert self.step >= 1 and min(sizes) >= 0, self
        # All of the last part that decides a level is seen of a window.
        assert self.memory is not None or not any(size % HEARD_TOGETHER for size in sizes), self

    @property
    def told(self) -> dict[str, Any]:
        """For hashes, which are those of old without a memory."""
        told = asdict(self)
        return {name: value for name, value in told.items() if value is not None}

    def window(self, number: int, frames: int) -> Window:
        """Of a track of `frames` feature frames."""
        first, end = (math.floor(place * self.step) for place in (number, number + 1))
        return Window(max(0, first - self.look_back), min(frames, end + self.look_ahead), first, min(frames, end))

    def number_of(self, frame: int) -> int:
        """The window that keeps a feature frame."""
        return math.ceil((frame + 1) / Fraction(self.step)) - 1

    def numbers(self, first: int, last: int) -> tuple[int, int]:
        """First and end of the windows that keep feature frames `first` to `last`."""
        return self.number_of(first), self.number_of(last) + 1

    def windows(self, frames: int) -> list[Window]:
        """All of a track of `frames` feature frames, of which they keep each one once."""
        return [self.window(number, frames) for number in range(self.number_of(frames - 1) + 1)]

    def settled(self, frames: int) -> int:
        """First feature frames of a track that its sound after `frames` frames does not change: those of the windows
        which are whole."""
        return self.window(self.number_of(max(0, frames - self.look_ahead)), frames).keep_start


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

    `encoder`: hash of the audio encoder's weights, "" where they cannot be read. `levelled`: whether it wants sound of
    mean 0 and variance 1; then a window is brought there by what was loud from the start of the sound to the window's
    end (`Level`).
    """

    waveform: Tensor
    sample_rate: int
    encoder: str
    levelled: bool = True
    context: BoundedContext = BOUNDED
    _heard: Heard = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_heard", Heard(self.context.memory))

    @property
    def frames(self) -> int:
        """Feature frames of all of it."""
        return encoder_frames(encoder_length(self.waveform.shape[-1], self.sample_rate))

    @property
    def settled(self) -> int:
        """First feature frames that do not change when the sound goes on."""
        return self.context.settled(encoder_frames(settled_samples(self.waveform.shape[-1], self.sample_rate)))

    @property
    def key(self) -> str:
        """Hash of all that decides its features."""
        return self._key(Window(0, self.frames, 0, self.frames))

    def block_key(self, buckets: list[int]) -> str:
        """Hash of what decides the features of so many of its 30 Hz buckets, in this order: those before the beginning
        and after the end are silent. Of settled buckets it stays the same when the sound goes on."""
        count = fixed_bucket_count(self.frames)
        heard = [bucket for bucket in buckets if 0 <= bucket < count]
        told = [bucket if 0 <= bucket < count else "silence" for bucket in buckets]
        fingerprint = Fingerprint().add("buckets", told)
        if heard:
            first, (last, between) = fixed_bucket_position(heard[0])[0], fixed_bucket_position(heard[-1])
            numbers = range(*self.context.numbers(first, last + (between > 0)))
            fingerprint.add("windows", [self._key(self.context.window(number, self.frames)) for number in numbers])
        return fingerprint.hexdigest()

    def samples(self, window: Window) -> Tensor:
        """What an encoder is given of a window: [1, S] at 16 kHz, in memory of its own."""
        samples = self._samples[:, window.start * ENCODER_FRAME_SAMPLES : samples_seen(window.stop)].clone()
        return self._level(window.stop).of(samples) if self.levelled else samples

    @cached_property
    def _samples(self) -> Tensor:
        return to_encoder_rate_in_pieces(self.waveform, self.sample_rate)

    def _key(self, window: Window) -> str:
        """Of a window: its place, the sound up to its end, since that decides its level, and what encodes it."""
        key = Fingerprint().add("context", self.context.told).add("encoder", [self.encoder, self.levelled])
        key.add("window", [window.start, window.stop]).add("rate", self.sample_rate)
        with self._heard.lock:
            parts = self._parts_of(window.stop)
            key.add("sound", self._heard.digest(parts))
        if self.context.memory is not None:
            seen = (source_samples(samples_seen(n), self.sample_rate) for n in (parts * HEARD_TOGETHER, window.stop))
            key.add("rest", self.waveform[:, slice(*seen)])
        return key.hexdigest()

    def _level(self, frames: int) -> Level:
        with self._heard.lock:
            return self._heard.level(self._parts_of(frames))

    def _parts_of(self, frames: int) -> int:
        """Parts of what was heard in which all sound is that the first feature frames see; of a sound without an end,
        those of which they see all."""
        wanted, most = (-(-n // HEARD_TOGETHER) for n in (frames, self.frames))
        wanted = wanted if self.context.memory is None else max(1, frames // HEARD_TOGETHER)
        while len(self._heard) < wanted:
            parts = range(len(self._heard), min(len(self._heard) + PARTS_AT_ONCE, most) + 1)
            borders = [source_samples(samples_seen(n * HEARD_TOGETHER), self.sample_rate) for n in parts]
            mono = self.waveform[:, borders[0] : borders[-1]].float().mean(dim=0).contiguous().numpy()
            for first, stop in pairwise(border - borders[0] for border in borders):
                self._heard.add(mono[first:stop])
        return wanted


def settled_video_frames(feature_frames: int, fps: Fraction) -> int:
    """First video frames whose features are read from the first `feature_frames`."""
    return frames_before_bucket(fixed_bucket_count(feature_frames), fps)


def at_fixed_times(track: Tensor, buckets: list[int], first: int = 0) -> Tensor:
    """30 Hz buckets of a track [L, T, D] that lie at fixed times, whatever its length: [L, n, D] float32.

    All of them below `fixed_bucket_count(first + T)`; `first`: feature frames of the sound before the track.
    """
    places = [fixed_bucket_position(bucket) for bucket in buckets]
    low = torch.tensor([place for place, _ in places], dtype=torch.int64) - first
    high = (low + 1).clamp(max=track.shape[1] - 1)
    weights = torch.tensor([float(weight) for _, weight in places])[None, :, None]
    return track[:, low].float() * (1 - weights) + track[:, high].float() * weights
