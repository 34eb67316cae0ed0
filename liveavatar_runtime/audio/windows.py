"""Encoding of long sound in overlapping windows, so that time and memory grow with its length, not its square."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from ..duration import ENCODER_FRAME_SAMPLES, ENCODER_MIN_SAMPLES, ENCODER_SAMPLE_RATE, FEATURE_RATE, encoder_frames
from ..errors import InputError
from ..progress import Progress
from .disk_backed import zeros
from .waveform import to_encoder_rate

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


def encode_in_windows(
    encode: Encode, waveform: Tensor, sample_rate: int, how: LongTrack = A_MINUTE_AT_A_TIME
) -> Tensor:
    """Hidden states [L, T, D] of a whole track, in `how.dtype` on the CPU; large ones in a file (`disk_backed.zeros`).

    `encode(waveform [C, S], sample_rate) -> [L, T, D]` is any encoder with wav2vec2's frames: one for each 320
    samples at 16 kHz, 400 samples long. Sound no longer than a window is given to it as it is, in one pass. Longer
    sound is brought to 16 kHz mono and encoded window by window; T is what one pass would have given. Raises InputError
    when the encoder's number of frames is another one.
    """
    if Fraction(waveform.shape[-1], sample_rate) <= how.window_seconds:
        states = encode(waveform, sample_rate).to("cpu", how.dtype)
        how.report(1, 1)
        return states
    samples = to_encoder_rate(waveform, sample_rate)
    num_frames = encoder_frames(samples.shape[-1])
    windows = plan_windows(num_frames, how.window_seconds * FEATURE_RATE, how.context_seconds * FEATURE_RATE)
    whole: Tensor | None = None
    for number, (window, states) in enumerate(_encoded(encode, samples, windows), start=1):
        if whole is None:
            whole = zeros((states.shape[0], num_frames, states.shape[2]), how.dtype, how.folder)
        kept = states[:, window.keep_start - window.start : window.keep_stop - window.start]
        whole[:, window.keep_start : window.keep_stop] = kept.to("cpu", how.dtype)
        how.report(number, len(windows))
    assert whole is not None
    return whole


def _encoded(encode: Encode, samples: Tensor, windows: list[Window]) -> Iterator[tuple[Window, Tensor]]:
    for window in windows:
        # The last frame's view reaches 80 samples beyond its own 320.
        end = (window.stop - 1) * ENCODER_FRAME_SAMPLES + ENCODER_MIN_SAMPLES
        states = encode(samples[:, window.start * ENCODER_FRAME_SAMPLES : end], ENCODER_SAMPLE_RATE)
        frames = window.stop - window.start
        if states.ndim != 3 or states.shape[1] != frames:
            raise InputError(
                f"the audio encoder gave hidden states of shape {tuple(states.shape)} for {frames} frames of sound; "
                f"it must give [layers, frames, width] at {FEATURE_RATE} frames a second. Use a wav2vec2 audio encoder."
            )
        yield window, states
