"""How loud a voice is, as far as it was heard: what replaces the mean and the variance of a whole track."""

import hashlib
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


@dataclass(eq=False)
class Heard:
    """Parts of a sound, one after the other, and what is known of the first ones of them; any thread may ask."""

    lock: Lock = field(default_factory=Lock)
    _sound: Any = field(default_factory=hashlib.sha256)
    _digests: list[str] = field(default_factory=lambda: [""])
    _squares: list[float] = field(default_factory=list)
    _sums: list[float] = field(default_factory=lambda: [0.0])
    _counts: list[int] = field(default_factory=lambda: [0])

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

    def digest(self, parts: int) -> str:
        """Hash of the samples of the first `parts` parts."""
        return self._digests[parts]

    def level(self, parts: int) -> Level:
        """That of what is loud in the first `parts` parts, above 0."""
        squares = np.array(self._squares[:parts])
        audible = squares[squares >= AUDIBLE]
        loud = audible[audible >= LOUD * audible.mean()] if len(audible) else audible
        square = max(QUIETEST, SPOKEN * float(loud.mean())) if len(loud) else QUIETEST
        return Level(self._sums[parts] / self._counts[parts], square)
