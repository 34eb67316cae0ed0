"""Sound as it comes from a user, checked, and as the audio encoder wants it."""

import math
from fractions import Fraction

import torch
from torch import Tensor

from ..errors import InputError
from ..planning.duration import ENCODER_MIN_SAMPLES, ENCODER_SAMPLE_RATE

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


def check_waveform(waveform: Tensor, sample_rate: int) -> Tensor:
    """A usable sound track [C, S], float32 in -1..1, on the CPU.

    Takes [C, S] or one track of ComfyUI's AUDIO, [1, C, S]; floats of any width, or 8/16/32 bit integers, which are
    scaled. Raises InputError for no samples, a batch of tracks, NaN or infinite samples, and sound shorter than the
    25 ms that the audio encoder looks at.
    """
    _check_sample_rate(sample_rate)
    tracks = _one_track(waveform)
    samples = _to_float(tracks).detach().to("cpu", torch.float32).contiguous()
    finite = samples.isfinite().all(dim=0)
    if not finite.all():
        first = int((~finite).to(torch.uint8).argmax())
        raise InputError(
            f"the audio has samples that are NaN or infinite, the first at {first / sample_rate:.3f} s of "
            f"{samples.shape[1] / sample_rate:.3f} s. Export or load the track again, or cut that part out."
        )
    if encoder_length(samples.shape[1], sample_rate) < ENCODER_MIN_SAMPLES:
        raise InputError(
            f"the audio has {samples.shape[1]} samples at {sample_rate} Hz "
            f"({1000 * samples.shape[1] / sample_rate:.1f} ms); at least "
            f"{Fraction(1000 * ENCODER_MIN_SAMPLES, ENCODER_SAMPLE_RATE)} ms are needed. Use a longer track."
        )
    return samples


def encoder_length(num_samples: int, sample_rate: int) -> int:
    """Samples at 16 kHz that `num_samples` at `sample_rate` become."""
    return math.ceil(Fraction(num_samples * ENCODER_SAMPLE_RATE, sample_rate))


def resample(waveform: Tensor, sample_rate: int, new_rate: int) -> Tensor:
    """[..., S] at `sample_rate` -> [..., ceil(S * new_rate / sample_rate)] at `new_rate`."""
    if sample_rate == new_rate:
        return waveform
    common = math.gcd(sample_rate, new_rate)
    if (sample_rate // common) * (new_rate // common) > _MAX_RESAMPLE_FILTER:
        raise InputError(
            f"the audio's sample rate is {sample_rate} Hz, which does not convert to {new_rate} Hz in small steps. "
            "Save it at a usual rate (8000, 16000, 22050, 24000, 44100, 48000 Hz) first."
        )
    from torchaudio.functional import resample as torchaudio_resample

    piece_seconds, margin_seconds = 60, 1
    if waveform.shape[-1] <= piece_seconds * sample_rate:
        return torchaudio_resample(waveform, sample_rate, new_rate)
    # In pieces, as torchaudio needs up to 19 times the memory of its input; whole seconds are whole samples at both
    # rates, and the filter is much shorter than the margin, so the pieces join without a seam.
    whole = waveform.new_zeros(*waveform.shape[:-1], math.ceil(Fraction(waveform.shape[-1] * new_rate, sample_rate)))
    for second in range(0, math.ceil(waveform.shape[-1] / sample_rate), piece_seconds):
        first = max(second - margin_seconds, 0)
        last = second + piece_seconds + margin_seconds
        piece = torchaudio_resample(waveform[..., first * sample_rate : last * sample_rate], sample_rate, new_rate)
        piece = piece[..., (second - first) * new_rate :][..., : piece_seconds * new_rate]
        whole[..., second * new_rate :][..., : piece.shape[-1]] = piece
    return whole


def to_encoder_rate(waveform: Tensor, sample_rate: int) -> Tensor:
    """[C, S] at any rate -> the mean of the channels at 16 kHz, [1, S16] float32."""
    return resample(waveform.float().mean(dim=0, keepdim=True), sample_rate, ENCODER_SAMPLE_RATE)


def _check_sample_rate(sample_rate: int) -> None:
    if isinstance(sample_rate, bool) or not isinstance(sample_rate, int) or sample_rate <= 0:
        raise InputError(f"the audio's sample rate is {sample_rate!r}; it must be a whole number of Hz above 0.")


def _one_track(waveform: Tensor) -> Tensor:
    if not isinstance(waveform, Tensor):
        raise InputError(f"the audio is a {type(waveform).__name__}; it must be a tensor [channels, samples].")
    shape = tuple(waveform.shape)
    if waveform.numel() == 0 and waveform.ndim in (2, 3):
        raise InputError(f"the audio has no samples (shape {shape}). Use a track with sound in it.")
    if waveform.ndim == 3 and shape[0] > 1:
        raise InputError(f"the audio is a batch of {shape[0]} tracks (shape {shape}); pick one of them.")
    if waveform.ndim not in (2, 3):
        raise InputError(f"the audio has shape {shape}; it must be [channels, samples] or [1, channels, samples].")
    track = waveform[0] if waveform.ndim == 3 else waveform
    if track.shape[0] > MAX_CHANNELS:
        raise InputError(
            f"the audio has {track.shape[0]} channels of {track.shape[1]} samples; at most {MAX_CHANNELS} channels "
            "are allowed. The order is [channels, samples]: transpose the tensor if it is the other way round."
        )
    return track


def _to_float(track: Tensor) -> Tensor:
    if track.is_floating_point():
        return track
    if track.dtype not in _INTEGER_SCALE:
        raise InputError(f"the audio's samples are {track.dtype}; they must be floats or 8, 16 or 32 bit integers.")
    offset, scale = _INTEGER_SCALE[track.dtype]
    return (track.double() - offset) / scale
