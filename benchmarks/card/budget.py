"""Time that is left, and what is done with it: steps in their order, each with the seconds that it needs."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bench import Bench


@dataclass(frozen=True)
class Budget:
    """`until`: when all must be done, in seconds since the epoch, which processes share."""

    until: float

    @classmethod
    def of_minutes(cls, minutes: float) -> "Budget":
        return cls(time.time() + 60 * minutes)

    def left(self) -> float:
        """Seconds, never below 0."""
        return max(0.0, self.until - time.time())

    def at_most(self, seconds: float) -> "Budget":
        """One that ends after so many seconds at the latest."""
        return Budget(min(self.until, time.time() + seconds))


@dataclass(frozen=True)
class Step:
    """One measurement. `seconds`: what it takes on a large card; a step that would not fit is left out with a line.

    `checks`: whether it shows that results are right, so that an error in it is a failed check.
    """

    name: str
    seconds: float
    run: "Callable[[Bench], None]"
    checks: bool = False

    @property
    def patience(self) -> float:
        """Seconds after which it hangs."""
        return 45 + 4 * self.seconds


def names(steps: Iterable[Step]) -> list[str]:
    """Names of the steps; raises ValueError when two have the same, as records are told apart by them."""
    found = [step.name for step in steps]
    if len(set(found)) < len(found):
        raise ValueError(f"two steps have one name: {found}")
    return found
