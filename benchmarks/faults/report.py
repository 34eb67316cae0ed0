"""What a campaign found, in numbers and in words."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from . import shim
from .campaign import Fault
from .shim import Site


@dataclass(frozen=True)
class Tried:
    """A fault that was tried: the call it hit, None when the run did not come to it, and what was wrong afterwards."""

    fault: Fault
    hit: Site | None
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """`calls`, `sites`: of the scenarios undisturbed; `chosen`: faults to be tried."""

    calls: dict[str, int]
    sites: dict[str, int]
    chosen: int
    tried: list[Tried]
    seconds: float

    @property
    def failed(self) -> list[Tried]:
        return [tried for tried in self.tried if tried.problems]

    @property
    def summary(self) -> str:
        met = {(tried.fault.scenario, tried.hit) for tried in self.tried if tried.hit is not None}
        missed = sum(tried.hit is None for tried in self.tried)
        faults = f"{len(self.tried)}{f' of {self.chosen}' if len(self.tried) < self.chosen else ''} faults"
        return (
            f"{sum(self.calls.values())} calls at {sum(self.sites.values())} call sites; {faults}, "
            f"{missed} of them not come to, at {len(met)} call sites: {len(self.failed)} failures; "
            f"{self.seconds:.0f} s"
        )

    def table(self) -> str:
        """By scenario, in Markdown."""
        lines = ["| Scenario | calls | call sites | faults | failures |", "| --- | --- | --- | --- | --- |"]
        tried, failed = _by_scenario(self.tried), _by_scenario(self.failed)
        lines += [f"| {n} | {c} | {self.sites[n]} | {tried[n]} | {failed[n]} |" for n, c in self.calls.items()]
        modes = Counter(shim.MODES[one.fault.mode] for one in self.tried)
        return "\n".join([*lines, "", "Faults: " + ", ".join(f"{mode} {number}" for mode, number in modes.items())])

    def findings(self) -> str:
        """Every kind of problem once, with how often it was met and one example."""
        kinds: dict[tuple[str, str], list[str]] = {}
        for one in self.failed:
            where = one.fault.site.caller.split(" < ")[0]
            for problem in one.problems:
                kinds.setdefault((where, problem.split(":")[0]), []).append(f"{one.fault}\n    {problem}")
        ordered = sorted(kinds.values(), key=len, reverse=True)
        return "\n".join(f"{len(examples)} times, such as {examples[0]}" for examples in ordered)


def _by_scenario(tried: Iterable[Tried]) -> Counter[str]:
    return Counter(one.fault.scenario for one in tried)
