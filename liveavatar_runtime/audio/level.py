"""How loud a voice is, as far as it was heard: what replaces the mean and the variance of a whole track."""

import hashlib
from collections import deque
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
from torch import Tensor

AUDIBLE = 1e-5
"""Mean square, -50 dB of full scale, below which a part is no voice."""
QUIETEST = 1e-4
"""Mean square, -40 dB of full scale, that is brought to 1: what is quieter stays so, as the noise of a room that comes
before the first word. Turned up, it would move the mouth."""
LOUD = 0.1
"""Parts that have at least so much of the mean square of the audible ones are speech, not a pause."""
SPOKEN = 0.8
"""Speech's share of a voice with its pauses, which is what encoders were trained on at mean square 1."""


@dataclass(frozen=True)
class Level:
    """Mean of samples, and their mean square when it is taken away."""

    mean: float
    square: float

    def of(self, samples: Tensor) -> Tensor:
        """Brought to mean 0 and mean square 1."""
        return (samples - self.mean) / (self.square + 1e-7) ** 0.5


@dataclass(frozen=True)
class Memory:
    """What of a sound without an end decides its level. Numbers are of parts, levels mean squares.

    heard: how many of the last ones with speech count; noise: of how many of the last ones the quieter ones are noise;
    above: what is at least so much louder than these is speech, if it is `audible`; expected: the level before the
    first word, in which noise must not look like speech; trusted: how many parts of speech weigh as much as that;
    mean: of how many of the last ones the mean is taken away.
    """

    heard: int = 3000
    noise: int = 300
    above: float = 4.0
    audible: float = 6e-5
    expected: float = 2e-2
    trusted: int = 10
    mean: int = 600


NOISE_QUANTILE = 0.1
NOTHING = 1e-8
"""Mean square, -80 dB of full scale, below which a part has no sound at all, as where a microphone is off."""


class RecentLevel:
    """The level of a sound from its last parts, in memory of a fixed size."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._squares: deque[float] = deque(maxlen=memory.noise)
        self._heard: deque[float] = deque(maxlen=memory.heard)
        self._sums: deque[float] = deque(maxlen=memory.mean)
        self._counts: deque[int] = deque(maxlen=memory.mean)

    def add(self, part: Any) -> None:
        """The next part, float32 [n], n > 0."""
        values = part.astype(np.float64)
        square = float(values.var())
        self._sums.append(float(values.sum()))
        self._counts.append(len(part))
        if square < NOTHING:
            return
        self._squares.append(square)
        noise = float(np.quantile(np.array(self._squares), NOISE_QUANTILE))
        if square >= max(self._memory.audible, self._memory.above * noise):
            self._heard.append(square)

    def level(self) -> Level:
        """Of the sound to the end of the last part."""
        mean = sum(self._sums) / sum(self._counts)
        known, expected = _speech(np.array(self._heard), QUIETEST), self._memory.expected
        # The mean of their logarithms.
        trust = len(self._heard) / (len(self._heard) + self._memory.trusted)
        return Level(mean, expected * (known / expected) ** trust)


def _speech(audible: Any, quietest: float) -> float:
    """Mean square of speech with its pauses, of the mean squares of audible parts."""
    loud = audible[audible >= LOUD * audible.mean()] if len(audible) else audible
    return max(quietest, SPOKEN * float(loud.mean())) if len(loud) else quietest


@dataclass(eq=False)
class Heard:
    """Parts of a sound, one after the other, and what is known of the first ones of them; any thread may ask.

    memory: of what the level depends; None: of all parts.
    """

    memory: Memory | None = None
    lock: Lock = field(default_factory=Lock)
    _sound: Any = field(default_factory=hashlib.sha256)
    _digests: list[str] = field(default_factory=lambda: [""])
    _squares: list[float] = field(default_factory=list)
    _sums: list[float] = field(default_factory=lambda: [0.0])
    _counts: list[int] = field(default_factory=lambda: [0])
    _levels: list[Level] = field(default_factory=list)
    _recent: RecentLevel | None = field(init=False)

    def __post_init__(self) -> None:
        self._recent = None if self.memory is None else RecentLevel(self.memory)

    def __len__(self) -> int:
        return len(self._squares)

    def add(self, part: Any) -> None:
        """The next part, float32 [n], n > 0."""
        self._sound.update(part)
        self._digests.append(self._sound.copy().hexdigest())
        values = part.astype(np.float64)
        self._squares.append(float(values.var()))
        self._sums.append(self._sums[-1] + float(values.sum()))
        self._counts.append(self._counts[-1] + len(part))
        if self._recent is not None:
            self._recent.add(part)
            self._levels.append(self._recent.level())

    def digest(self, parts: int) -> str:
        """Hash of the samples of the first `parts` parts."""
        return self._digests[parts]

    def level(self, parts: int) -> Level:
        """That of what is loud in the first `parts` parts, above 0."""
        if self.memory is not None:
            return self._levels[parts - 1]
        squares = np.array(self._squares[:parts])
        square = _speech(squares[squares >= AUDIBLE], QUIETEST)
        return Level(self._sums[parts] / self._counts[parts], square)
