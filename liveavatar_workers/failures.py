"""Why workers ended, and how that is told to the user."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .messages import Failure

AGAIN = "The workers start anew with the next run, which goes on after the last finished block."


@dataclass(frozen=True)
class Ended:
    """How a process ended, as the launcher saw it: its code, negative for the number of a signal."""

    code: int

    @property
    def killed(self) -> bool:
        """By somebody else than the launcher, which terminates the ranks that are left."""
        return self.code < 0 and self.code != -signal.SIGTERM

    def __str__(self) -> str:
        if self.code >= 0:
            return f"exited with code {self.code}"
        names = {number.value: number.name for number in signal.Signals}
        return f"was killed ({names.get(-self.code, -self.code)})"


def describe(failures: Sequence[Failure], ended: Mapping[int, Ended], otherwise: str) -> str:
    """One text: the causes rather than their consequences, with tracebacks.

    `ended`: how ranks ended; `otherwise`: what is known when nobody said anything.
    """
    causes = {failure.rank: failure for failure in reversed(failures) if not failure.consequence}
    reported = {failure.rank for failure in failures}
    silent = {rank: how for rank, how in ended.items() if rank not in reported}
    # Rank 0 exits once it has told about another one, and the launcher terminates those that are left.
    killed = {rank: how for rank, how in silent.items() if how.killed}
    if causes or killed:
        silent = killed
    if not causes and not silent:
        causes = {failure.rank: failure for failure in failures[:1]}
    lines = [f"rank {rank} {how}" for rank, how in silent.items()]
    lines += [f"rank {f.rank} ({f.where}): {f.message}" for f in causes.values()]
    traces = [f.trace.strip() for f in causes.values() if f.trace]
    return "\n".join([f"The workers ended: {('; '.join(lines) or otherwise).rstrip('.')}.", AGAIN, *traces])
