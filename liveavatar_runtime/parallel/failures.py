"""Why workers ended, and how that is told to the user."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

AGAIN = "The workers start anew with the next run, which goes on after the last finished block."


@dataclass(frozen=True)
class Failure:
    """A rank, its device and machine, what happened, its traceback. `consequence`: only because another rank ended."""

    rank: int
    where: str
    message: str
    trace: str = ""
    consequence: bool = False


def describe(failures: Sequence[Failure], ended: Mapping[int, str], otherwise: str) -> str:
    """One text: the causes rather than their consequences, with tracebacks.

    `ended`: how ranks ended, as the launcher saw it; `otherwise`: what is known when nobody said anything.
    """
    causes = {failure.rank: failure for failure in reversed(failures) if not failure.consequence}
    reported = {failure.rank for failure in failures}
    silent = {rank: how for rank, how in ended.items() if rank not in reported}
    # Rank 0 exits once it has told about another one, and the launcher terminates those that are left.
    plain = {rank: how for rank, how in silent.items() if "exited" not in how and "SIGTERM" not in how}
    if causes or plain:
        silent = plain
    if not causes and not silent:
        causes = {failure.rank: failure for failure in failures[:1]}
    lines = [f"rank {rank} {how}" for rank, how in silent.items()]
    lines += [f"rank {f.rank} ({f.where}): {f.message}" for f in causes.values()]
    traces = [f.trace.strip() for f in causes.values() if f.trace]
    return "\n".join([f"The workers ended: {('; '.join(lines) or otherwise).rstrip('.')}.", AGAIN, *traces])
