"""What becomes of sound that the sampling has not got to, when it is slower than speech."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ..errors import InputError
from .samples import FADE, SOUND_RATE, Samples, cross_faded, silence

LagRule = Literal["wait", "drop silence"]
LAG_RULES: tuple[LagRule, ...] = get_args(LagRule)
_CELL = SOUND_RATE // 100
"""Samples by whose mean square sound counts as silent."""


@dataclass(frozen=True)
class LagPolicy:
    """rule: "wait": nothing is left out, so what is said late is shown late; "drop silence": as long as the session is
    more than `bound` seconds behind, silences longer than `longest_silence` seconds are shortened to that.

    Beyond `most` seconds the oldest are left out in any case. Silent is what is quieter than `silent` (root mean
    square, -45 dB of full scale).
    """

    rule: LagRule = "drop silence"
    bound: float = 1.0
    most: float = 20.0
    silent: float = 10 ** (-45 / 20)
    longest_silence: float = 0.2

    def __post_init__(self) -> None:
        if self.rule not in LAG_RULES:
            raise InputError(f"the rule for a lag is {self.rule!r}; allowed are {', '.join(LAG_RULES)}.")
        if not 0 < self.bound <= self.most:
            raise InputError(
                f"the lag is to be bound to {self.bound} s and at most {self.most} s; both must be above 0, and the "
                "second one no smaller."
            )


@dataclass
class Dropped:
    """Seconds of a session's sound that were left out, because it was behind: of silences, and of what was too old."""

    silence: float = 0.0
    speech: float = 0.0


def shorten_silences(sound: Samples, too_many: int, policy: LagPolicy) -> Samples:
    """A sound without the middles of its silences, from the first one on, until `too_many` samples are left out or it
    has no more of them."""
    parts: list[Samples] = []
    done = 0
    for first, end in _silences(sound, policy):
        excess = min(end - first - round(policy.longest_silence * SOUND_RATE), too_many)
        if excess <= 2 * FADE:
            continue
        # From the middle, so that what was before and after keeps its own silence.
        cut = (first + end - excess) // 2
        joint = cross_faded(sound[cut : cut + FADE], sound[cut + excess : cut + excess + FADE])
        parts += [sound[done:cut], joint]
        done, too_many = cut + excess + FADE, too_many - excess
    return np.concatenate([*parts, sound[done:]])


def without_oldest(sound: Samples, too_many: int) -> Samples:
    """A sound without its first samples, faded in."""
    rest = sound[too_many:].copy()
    fading = min(FADE, len(rest))
    rest[:fading] = cross_faded(silence(fading), rest[:fading])
    return rest


def _silences(sound: Samples, policy: LagPolicy) -> list[tuple[int, int]]:
    """(first, end) of the silent stretches, of whole cells."""
    cells = sound[: len(sound) // _CELL * _CELL].reshape(-1, _CELL)
    quiet = np.square(cells).mean(axis=1) < policy.silent**2
    borders = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]])))
    return [(int(first) * _CELL, int(end) * _CELL) for first, end in borders.reshape(-1, 2)]
