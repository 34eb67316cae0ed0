"""Numbers that are not known exactly: predictions, with what they may be off by and where they come from."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..errors import InputError

Source = Literal["observed", "measured", "published", "assumed", "unknown"]
"""Where a speed comes from, the best first: runs on this machine, a card of this kind that was measured, figures that
others published, arithmetic from what a card is sold with; "unknown": only how speeds compare is known."""
UNKNOWN: Source = "unknown"
SOURCES: tuple[Source, ...] = get_args(Source)
CLOSE = 0.05
"""Ends of a range that differ by less, of the likely value, are one number for people."""


def worst(sources: Iterable[Source]) -> Source:
    """Of what several sources went into."""
    found = list(sources)
    return max(found, key=_rank) if found else UNKNOWN


def _rank(source: Source) -> int:
    return SOURCES.index(source)


@dataclass(frozen=True)
class Range:
    """A value above 0 with its bounds: low <= likely <= high."""

    low: float
    likely: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.likely <= self.high < math.inf:
            raise InputError(
                f"{self.low:g}, {self.likely:g}, {self.high:g} is no range; give 0 < low <= likely <= high"
            )

    @classmethod
    def exactly(cls, value: float) -> "Range":
        return cls(value, value, value)

    @classmethod
    def around(cls, likely: float, error: float) -> "Range":
        """`error`: 0.5 means up to 1.5 times as much, or as little as 1.5 times less."""
        return cls(likely / (1 + error), likely, likely * (1 + error))

    def scaled(self, factor: float) -> "Range":
        return Range(self.low * factor, self.likely * factor, self.high * factor)

    def inverse(self, of: float = 1.0) -> "Range":
        """`of` divided by it: seconds from a speed, a speed from seconds."""
        return Range(of / self.high, of / self.likely, of / self.low)

    def plus(self, other: "Range") -> "Range":
        """Of values whose errors go together."""
        return Range(self.low + other.low, self.likely + other.likely, self.high + other.high)

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def text(self, digits: int = 1) -> str:
        """ "1.8 to 2.6", or "2.2" where the ends hardly differ."""
        low, high = f"{self.low:.{digits}f}", f"{self.high:.{digits}f}"
        if low == high or self.high - self.low < CLOSE * self.likely:
            return f"{self.likely:.{digits}f}"
        return f"{low} to {high}"

    def __str__(self) -> str:
        return self.text()

    def as_json(self) -> dict[str, Any]:
        return {"low": self.low, "likely": self.likely, "high": self.high}
