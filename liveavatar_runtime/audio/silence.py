"""Seconds of silence put into a sound."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from ..duration import sample_at


@dataclass(frozen=True)
class Silence:
    """`at`: seconds in the finished sound, with all silences; `seconds`: how long it is."""

    at: Fraction
    seconds: Fraction


def with_silences(
    waveform: Tensor, sample_rate: int, silences: Sequence[Silence]
) -> tuple[Tensor, tuple[Silence, ...]]:
    """waveform [..., S] -> [..., S + n] with zeros at the times of `silences`, which ascend, and the silences that
    begin behind the end of the sound, which are not in it.

    One that begins within another makes that one longer. No sample of the sound is changed or left out.
    """
    pieces: list[Tensor] = []
    late: list[Silence] = []
    taken = made = 0
    for silence in silences:
        first = sample_at(silence.at, sample_rate)
        length = sample_at(silence.at + silence.seconds, sample_rate) - first
        sound = max(0, first - made)
        if taken + sound > waveform.shape[-1]:
            late.append(silence)
            continue
        pieces += [waveform[..., taken : taken + sound], waveform.new_zeros(*waveform.shape[:-1], length)]
        taken, made = taken + sound, made + sound + length
    return torch.cat([*pieces, waveform[..., taken:]], dim=-1), tuple(late)
