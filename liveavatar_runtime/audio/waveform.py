"""Sound as it comes from a user, made usable, and as the audio encoder wants it."""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from ..duration import ENCODER_MIN_SAMPLES, ENCODER_SAMPLE_RATE
from ..errors import InputError

MAX_CHANNELS = 64
# torchaudio's polyphase filter has about this many elements; a rate such as 44,101 Hz would need gigabytes.
_MAX_RESAMPLE_FILTER = 50_000_000
# (offset, full scale) of the integer sample formats.
_INTEGER_SCALE = {
    torch.uint8: (128, 2**7),
    torch.int8: (0, 2**7),
    torch.int16: (0, 2**15),
    torch.int32: (0, 2**31),
}
PIECE_SECONDS, _MARGIN_SECONDS = 10, 1
"""Of a sound that goes on, what is brought to 16 kHz at once, and what is looked at before and behind it."""
_CLIPPED = 1.1
"""Peaks of limited music overshoot full scale by less when it is resampled."""
_LOUDEST_FLOAT = 100.0
"""Above, samples are no loud floats."""
_SIDE, _BOTH = math.sqrt(0.5), (math.sqrt(0.5), math.sqrt(0.5))
_SPEAKERS = {
    "FL": (1.0, 0.0),
    "FR": (0.0, 1.0),
    "FC": _BOTH,
    "LFE": (0.0, 0.0),
    "BC": (0.5, 0.5),
    "BL": (_SIDE, 0.0),
    "BR": (0.0, _SIDE),
    "SL": (_SIDE, 0.0),
    "SR": (0.0, _SIDE),
}
"""What a speaker gives to left and right."""
_LAYOUTS = {
    3: ("2.1", "FL FR LFE"),
    4: ("4.0", "FL FR FC BC"),
    5: ("5.0", "FL FR FC BL BR"),
    6: ("5.1", "FL FR FC LFE BL BR"),
    7: ("6.1", "FL FR FC LFE BC SL SR"),
    8: ("7.1", "FL FR FC LFE BL BR SL SR"),
}
"""The layout that FFmpeg takes for a number of channels, with its order."""


@dataclass(frozen=True)
class Sound:
    """A usable sound track: waveform [1 or 2, S] float32 in -1..1 on the CPU, its samples a second, and what was
    changed on the way, in words for the user."""

    waveform: Tensor
    sample_rate: int
    changes: tuple[str, ...] = ()


def read_sound(waveform: object, sample_rate: object) -> Sound:
    """The sound that a user gave.

    waveform: tensor or NumPy array, [C, S] or [B, C, S] as in ComfyUI's AUDIO; floats of any width, or 8/16/32 bit
        integers, which are scaled. Of several tracks the first is used; more than two channels are mixed to stereo.
    sample_rate: a whole number of Hz, of any type that is a number or holds one.

    Raises InputError for no samples, NaN or infinite ones, and sound shorter than the 25 ms that the audio encoder
    looks at.
    """
    rate = _whole_rate(sample_rate)
    track, changes = _one_track(waveform)
    samples = _to_float(track).detach().to("cpu", torch.float32).contiguous()
    finite = samples.isfinite().all(dim=0)
    if not finite.all():
        first = int((~finite).to(torch.uint8).argmax())
        raise InputError(
            f"the audio has samples that are NaN or infinite, the first at {first / rate:.3f} s of "
            f"{samples.shape[1] / rate:.3f} s. Export or load the track again, or cut that part out."
        )
    if encoder_length(samples.shape[1], rate) < ENCODER_MIN_SAMPLES:
        raise InputError(
            f"the audio has {samples.shape[1]} samples at {rate} Hz "
            f"({1000 * samples.shape[1] / rate:.1f} ms); at least "
            f"{Fraction(1000 * ENCODER_MIN_SAMPLES, ENCODER_SAMPLE_RATE)} ms are needed. Use a longer track."
        )
    samples, mixed = mix_to_stereo(samples)
    samples, levelled = _at_full_scale(samples)
    return Sound(samples, rate, (*changes, *mixed, *levelled))


def mix_to_stereo(samples: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """[C, S] -> [1 or 2, S], and what was done in words.

    Three to eight channels are taken in the order of FFmpeg's layouts and mixed as in ITU-R BS.775, turned down so
    that nothing clips. For more there is no common order, so every one is heard alike, in mono.
    """
    channels = samples.shape[0]
    if channels <= 2:
        return samples, ()
    if channels not in _LAYOUTS:
        return samples.mean(dim=0, keepdim=True), (f"The sound has {channels} channels; they were mixed to mono.",)
    name, speakers = _LAYOUTS[channels]
    mix = torch.tensor([_SPEAKERS[speaker] for speaker in speakers.split()]).T
    mix = mix / mix.sum(dim=1).max()
    said = f"The sound has {channels} channels; they were mixed to stereo as {name} ({speakers})."
    return mix @ samples, (said,)


def encoder_length(num_samples: int, sample_rate: int) -> int:
    """Samples at 16 kHz that `num_samples` at `sample_rate` become."""
    return math.ceil(Fraction(num_samples * ENCODER_SAMPLE_RATE, sample_rate))


def resample(waveform: Tensor, sample_rate: int, new_rate: int) -> Tensor:
    """[..., S] at `sample_rate` -> [..., ceil(S * new_rate / sample_rate)] at `new_rate`."""
    if sample_rate == new_rate:
        return waveform
    piece_seconds, margin_seconds = 60, 1
    if waveform.shape[-1] <= piece_seconds * sample_rate:
        return _resampled(waveform, sample_rate, new_rate)
    # In pieces, as torchaudio needs up to 19 times the memory of its input; whole seconds are whole samples at both
    # rates, and the filter is much shorter than the margin, so the pieces join without a seam.
    whole = waveform.new_zeros(*waveform.shape[:-1], math.ceil(Fraction(waveform.shape[-1] * new_rate, sample_rate)))
    for second in range(0, math.ceil(waveform.shape[-1] / sample_rate), piece_seconds):
        first = max(second - margin_seconds, 0)
        last = second + piece_seconds + margin_seconds
        piece = _resampled(waveform[..., first * sample_rate : last * sample_rate], sample_rate, new_rate)
        piece = piece[..., (second - first) * new_rate :][..., : piece_seconds * new_rate]
        whole[..., second * new_rate :][..., : piece.shape[-1]] = piece
    return whole


def _resampled(waveform: Tensor, sample_rate: int, new_rate: int) -> Tensor:
    """In one go."""
    from torchaudio.functional import resample as torchaudio_resample

    common = math.gcd(sample_rate, new_rate)
    if (sample_rate // common) * (new_rate // common) > _MAX_RESAMPLE_FILTER:
        raise InputError(
            f"the audio's sample rate is {sample_rate} Hz, which does not convert to {new_rate} Hz in small steps. "
            "Save it at a usual rate (8000, 16000, 22050, 24000, 44100, 48000 Hz) first."
        )
    return torchaudio_resample(waveform, sample_rate, new_rate)


def to_encoder_rate_in_pieces(waveform: Tensor, sample_rate: int) -> Tensor:
    """As `to_encoder_rate`, so that sound which goes on has the same first samples (`settled_samples` of them), to the
    bit: what is resampled at once begins at a fixed time and has a fixed length, with silence after the end."""
    mono = waveform.float().mean(dim=0, keepdim=True)
    if sample_rate == ENCODER_SAMPLE_RATE:
        return mono
    whole = mono.new_zeros(1, encoder_length(mono.shape[-1], sample_rate))
    for second in range(0, math.ceil(mono.shape[-1] / sample_rate), PIECE_SECONDS):
        given = mono[:, slice(*(at * sample_rate for at in seen_of_piece(second)))]
        kept = whole[:, second * ENCODER_SAMPLE_RATE :][:, : PIECE_SECONDS * ENCODER_SAMPLE_RATE]
        kept.copy_(piece_at_encoder_rate(given, second, sample_rate)[:, : kept.shape[-1]])
    return whole


def seen_of_piece(second: int) -> tuple[int, int]:
    """From and to which second of a sound a piece is made of it that begins at `second`, a multiple of
    `PIECE_SECONDS`."""
    return max(second - _MARGIN_SECONDS, 0), second + PIECE_SECONDS + _MARGIN_SECONDS


def piece_at_encoder_rate(given: Tensor, second: int, sample_rate: int) -> Tensor:
    """The piece of `PIECE_SECONDS` [1, S16] from `second` on, of what is `seen_of_piece` [1, S], as far as it is known;
    silence after that."""
    first = second - _MARGIN_SECONDS
    piece = given.new_zeros(1, (PIECE_SECONDS + 2 * _MARGIN_SECONDS) * sample_rate)
    piece[:, (seen_of_piece(second)[0] - first) * sample_rate :][:, : given.shape[-1]] = given
    resampled = _resampled(piece, sample_rate, ENCODER_SAMPLE_RATE)
    return resampled[:, _MARGIN_SECONDS * ENCODER_SAMPLE_RATE :][:, : PIECE_SECONDS * ENCODER_SAMPLE_RATE]


def settled_samples(num_samples: int, sample_rate: int) -> int:
    """First samples at 16 kHz that no sound after the `num_samples` at `sample_rate` changes."""
    seen = Fraction(num_samples, sample_rate) - _reach(sample_rate)
    return max(0, math.ceil(seen * ENCODER_SAMPLE_RATE))


def source_samples(num_samples: int, sample_rate: int) -> int:
    """First samples at `sample_rate` that decide the first `num_samples` at 16 kHz: `settled_samples` backwards."""
    last = Fraction(num_samples - 1, ENCODER_SAMPLE_RATE) + _reach(sample_rate)
    return math.floor(last * sample_rate) + 1 if num_samples > 0 else 0


def _reach(sample_rate: int) -> Fraction:
    """Seconds before and after a sample at 16 kHz that it is made of."""
    if sample_rate == ENCODER_SAMPLE_RATE:
        return Fraction(0)
    # As torchaudio.functional.resample: 6 zero crossings of a low-pass at 0.99 of the lower rate.
    return Fraction(600, 99 * min(sample_rate, ENCODER_SAMPLE_RATE))


def to_encoder_rate(waveform: Tensor, sample_rate: int) -> Tensor:
    """[C, S] at any rate -> the mean of the channels at 16 kHz, [1, S16] float32."""
    return resample(waveform.float().mean(dim=0, keepdim=True), sample_rate, ENCODER_SAMPLE_RATE)


def _whole_rate(sample_rate: object) -> int:
    """A rate as other programs give it: Python's or NumPy's numbers, or a tensor or array of one."""
    value = sample_rate
    if isinstance(value, (Tensor, np.ndarray, np.generic)) and math.prod(value.shape) == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value // 1 or value <= 0:
        raise InputError(f"the audio's sample rate is {sample_rate!r}; it must be a whole number of Hz above 0.")
    return int(value)


def _one_track(waveform: object) -> tuple[Tensor, tuple[str, ...]]:
    if isinstance(waveform, np.ndarray):
        waveform = torch.from_numpy(np.ascontiguousarray(waveform)) if waveform.dtype.kind in "fiu" else waveform
    if not isinstance(waveform, Tensor):
        raise InputError(f"the audio is a {type(waveform).__name__}; it must be a tensor [channels, samples].")
    shape = tuple(waveform.shape)
    if waveform.numel() == 0 and waveform.ndim in (2, 3):
        raise InputError(
            f"the audio has no samples (shape {shape}); a video without sound gives that. Connect a voice, from Load "
            "Audio for instance."
        )
    if waveform.ndim not in (2, 3):
        raise InputError(f"the audio has shape {shape}; it must be [channels, samples] or [1, channels, samples].")
    track = waveform[0] if waveform.ndim == 3 else waveform
    if track.shape[0] > MAX_CHANNELS:
        raise InputError(
            f"the audio has {track.shape[0]} channels of {track.shape[1]} samples; at most {MAX_CHANNELS} channels "
            "are allowed. The order is [channels, samples]: transpose the tensor if it is the other way round."
        )
    if waveform.ndim == 3 and shape[0] > 1:
        return track, (f"The sound is a batch of {shape[0]} tracks; the first one is used.",)
    return track, ()


def _at_full_scale(samples: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """Samples whose level is far from -1..1: read as 16 bit numbers where that is what they are, or said."""
    peak = float(samples.abs().max())
    if _LOUDEST_FLOAT < peak <= 2**15:
        return samples / 2**15, (
            f"The sound's samples reach {peak:.0f} where 1 is full scale: they were read as 16 bit numbers.",
        )
    if peak > _CLIPPED:
        return samples, (
            f"The sound is too loud: its samples reach {peak:.1f} and everything above 1 will be cut off, which "
            "sounds distorted. Lower its volume.",
        )
    return samples, ()


def _to_float(track: Tensor) -> Tensor:
    if track.is_floating_point():
        return track
    if track.dtype not in _INTEGER_SCALE:
        raise InputError(f"the audio's samples are {track.dtype}; they must be floats or 8, 16 or 32 bit integers.")
    offset, scale = _INTEGER_SCALE[track.dtype]
    return (track.double() - offset) / scale
