"""Encoding of long sound in overlapping windows, so that time and memory grow with its length, not its square."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..duration import ENCODER_FRAME_SAMPLES, ENCODER_MIN_SAMPLES, ENCODER_SAMPLE_RATE, FEATURE_RATE, encoder_frames
from ..errors import InputError
from ..progress import Progress
from .disk_backed import zeros_in_parts
from .waveform import to_encoder_rate

CPU = torch.device("cpu")
Encode = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class LongTrack:
    """How a track longer than `window_seconds` is encoded: in windows that have `context_seconds` more on each side,
    which are thrown away. The hidden states are kept as `dtype`; large ones in `folder`, or the system's temporary one.
    `progress(done, windows)` is called after each window."""

    window_seconds: int = 60
    context_seconds: int = 5
    dtype: torch.dtype = torch.float32
    folder: Path | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if not 0 <= 2 * self.context_seconds < self.window_seconds:
            raise ValueError(
                f"a window of {self.window_seconds} s is too short for two contexts of {self.context_seconds} s"
            )

    def windows(self, frames: int) -> "list[Window]":
        """Of a track of `frames` feature frames."""
        return plan_windows(frames, self.window_seconds * FEATURE_RATE, self.context_seconds * FEATURE_RATE)

    def report(self, done: int, windows: int) -> None:
        if self.progress is not None:
            self.progress(done, windows)


A_MINUTE_AT_A_TIME = LongTrack()


@dataclass(frozen=True)
class Window:
    """Feature frames [start, stop) are encoded in one pass, of which [keep_start, keep_stop) are kept."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int

    def keeps(self, first: int, stop: int) -> bool:
        """Whether any of feature frames [first, stop) is kept of it."""
        return self.keep_start < stop and first < self.keep_stop


class WindowSource(Protocol):
    """A track that is encoded in windows."""

    @property
    def frames(self) -> int:
        """Feature frames of all of it."""
        ...

    def samples(self, window: Window) -> Tensor:
        """What the frames of a window see: [1, S] at 16 kHz."""
        ...


@dataclass(frozen=True, eq=False)
class SampledTrack:
    """Samples [1, S] at 16 kHz that are encoded as they are."""

    all_samples: Tensor

    @property
    def frames(self) -> int:
        return encoder_frames(self.all_samples.shape[-1])

    def samples(self, window: Window) -> Tensor:
        return self.all_samples[:, window.start * ENCODER_FRAME_SAMPLES : samples_seen(window.stop)]


def samples_seen(frames: int) -> int:
    """Samples at 16 kHz that the first `frames` feature frames see."""
    # The last frame's view reaches 80 samples beyond its own 320.
    return (frames - 1) * ENCODER_FRAME_SAMPLES + ENCODER_MIN_SAMPLES if frames else 0


class WindowRule(Protocol):
    """Where a track is cut into windows, and how their hidden states are kept."""

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def folder(self) -> Path | None: ...

    def windows(self, frames: int) -> list[Window]:
        """Of a track of `frames` feature frames, in order; they keep every one of them once."""
        ...


def plan_windows(num_frames: int, window_frames: int, context_frames: int) -> list[Window]:
    """Windows that keep every one of `num_frames` feature frames exactly once.

    All have `window_frames` frames (one shorter one if there are fewer in all), and every frame kept has
    `context_frames` neighbours on both sides, except at the ends of the track.
    """
    if num_frames <= window_frames:
        return [Window(0, num_frames, 0, num_frames)]
    windows: list[Window] = []
    kept = 0
    while kept < num_frames:
        start = min(max(kept - context_frames, 0), num_frames - window_frames)
        stop = start + window_frames
        keep_stop = num_frames if stop == num_frames else stop - context_frames
        windows.append(Window(start, stop, kept, keep_stop))
        kept = keep_stop
    return windows


def is_long(waveform: Tensor, sample_rate: int, how: LongTrack = A_MINUTE_AT_A_TIME) -> bool:
    """Whether a track is encoded in several windows."""
    return Fraction(waveform.shape[-1], sample_rate) > how.window_seconds


def encode_in_windows(
    encode: Encode, waveform: Tensor, sample_rate: int, how: LongTrack = A_MINUTE_AT_A_TIME
) -> Tensor:
    """Hidden states [L, T, D] of a whole track, in `how.dtype` on the CPU; large ones in a file (`disk_backed`).

    `encode(waveform [C, S], sample_rate) -> [L, T, D]` is any encoder with wav2vec2's frames: one for each 320
    samples at 16 kHz, 400 samples long. Sound no longer than a window is given to it as it is, in one pass. Longer
    sound is brought to 16 kHz mono and encoded window by window; T is what one pass would have given. Raises InputError
    when the encoder's number of frames is another one.
    """
    if not is_long(waveform, sample_rate, how):
        states = encode(waveform, sample_rate).to("cpu", how.dtype)
        how.report(1, 1)
        return states
    track = EncodedWindows(encode, SampledTrack(to_encoder_rate(waveform, sample_rate)), how)
    track.need(0, track.states.shape[1], how.progress)
    return track.states


def encoded_window(encode: Encode, samples: Tensor, window: Window) -> Tensor:
    """Hidden states [L, frames, D] of a window. Raises InputError when the encoder gives another number of frames."""
    states, frames = encode(samples, ENCODER_SAMPLE_RATE), window.stop - window.start
    if states.ndim != 3 or states.shape[1] != frames:
        raise InputError(
            f"the audio encoder gave hidden states of shape {tuple(states.shape)} for {frames} frames of sound; "
            f"it must give [layers, frames, width] at {FEATURE_RATE} frames a second. Use a wav2vec2 audio encoder."
        )
    return states


class EncodedWindows:
    """A track of several windows, of which each is encoded when one of its frames is needed first.

    `states` [L, T, D]: zeros where nothing was encoded yet. Windows are those of the whole track, so a frame's values
    do not depend on what is asked for. `device`: where it is encoded. `broken`: values that are no numbers, of those
    encoded so far.
    """

    def __init__(self, encode: Encode, source: WindowSource, how: WindowRule, device: torch.device = CPU) -> None:
        """The first window is encoded at once, since it tells the sizes."""
        self._encode, self._source, self.device = encode, source, device
        frames = source.frames
        self._windows = how.windows(frames)
        self._missing = set(range(len(self._windows)))
        self._lock = threading.Lock()
        self.broken = 0
        first = self._encoded(self._windows[0])
        rows, _, width = first.shape
        self.states, self._reserve = zeros_in_parts(rows, frames, width, how.dtype, how.folder)
        self._keep(0, first)

    @property
    def encoded(self) -> int:
        """Windows that are."""
        return len(self._windows) - len(self._missing)

    def need(self, first: int, stop: int, progress: Progress | None = None) -> None:
        """Have frames [first, stop) encoded; any thread may ask."""
        with self._lock:
            wanted = [n for n, window in enumerate(self._windows) if window.keeps(first, stop)]
            for done, number in enumerate(wanted, start=1):
                if number in self._missing:
                    self._keep(number, self._encoded(self._windows[number]))
                if progress is not None:
                    progress(done, len(wanted))

    def _keep(self, number: int, states: Tensor) -> None:
        window = self._windows[number]
        kept = states[:, window.keep_start - window.start : window.keep_stop - window.start]
        self._reserve(window.keep_start, window.keep_stop)
        self.states[:, window.keep_start : window.keep_stop] = kept.to("cpu", self.states.dtype)
        self.broken += int((~kept.isfinite()).sum())
        self._missing.discard(number)

    def _encoded(self, window: Window) -> Tensor:
        return encoded_window(self._encode, self._source.samples(window), window)
