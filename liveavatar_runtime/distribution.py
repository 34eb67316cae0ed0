"""What many numbers are like, in memory that does not grow with them."""

import math
from collections import Counter
from dataclasses import dataclass

RATIO = 1.02
"""Between neighbouring bins: a quantile is right within 1 %."""
SMALLEST, LARGEST = 1e-6, 1e9


@dataclass(frozen=True)
class Summary:
    """count, mean, median, p10, p90, p95, min, max, and `variation`, the standard deviation relative to the mean."""

    count: int
    mean: float
    median: float
    p10: float
    p90: float
    p95: float
    min: float
    max: float
    variation: float


class Distribution:
    """Numbers above 0, counted in bins of a fixed relative width; mean and deviation are exact."""

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()
        self.count = 0
        self._mean = self._squares = 0.0
        self._min, self._max = math.inf, 0.0

    def add(self, value: float) -> None:
        value = min(max(value, SMALLEST), LARGEST)
        self.count += 1
        self._bins[math.floor(math.log(value) / math.log(RATIO))] += 1
        self._min, self._max = min(self._min, value), max(self._max, value)
        # Welford's: sums of squares of close numbers would lose their difference.
        off = value - self._mean
        self._mean += off / self.count
        self._squares += off * (value - self._mean)

    def quantile(self, share: float) -> float:
        """The smallest number that at least this share of all are not above, within 1 %; there must be one."""
        wanted, seen = max(1, math.ceil(share * self.count)), 0
        for place in sorted(self._bins):
            seen += self._bins[place]
            if seen >= wanted:
                return min(max(RATIO ** (place + 0.5), self._min), self._max)
        raise ValueError("a distribution of no numbers has no quantiles")

    def summary(self) -> Summary | None:
        """None of no numbers."""
        if not self.count:
            return None
        return Summary(
            count=self.count,
            mean=self._mean,
            median=self.quantile(0.5),
            p10=self.quantile(0.1),
            p90=self.quantile(0.9),
            p95=self.quantile(0.95),
            min=self._min,
            max=self._max,
            variation=math.sqrt(self._squares / self.count) / self._mean,
        )
