"""The cheapest changes that make a plan fit or faster: each is planned again, so that what is advised is true."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ..planning.device import RESERVED_SHARE
from ..texts import GIB
from .plan_case import UNLIMITED, Answer, Case, answer, with_memory
from .plan_changes import Change, applied, changes_for

MOST_SINGLE = 8
"""Pieces of advice that anybody reads."""
FASTER, LESS = 1.05, 0.9
"""From this ratio of speed, and below this share of memory or RAM, a change of a plan that fits is worth telling."""
WORTH_SAVING = GIB // 2


@dataclass(frozen=True)
class Advice:
    """One change, or several together, and what the plan takes after it."""

    changes: tuple[Change, ...]
    before: Answer
    after: Answer

    @property
    def cost(self) -> float:
        """Of its quality."""
        return sum(change.cost for change in self.changes)

    @property
    def speed_up(self) -> float | None:
        """How many times as fast; None where nothing fitted before."""
        return likely_fps(self.after) / likely_fps(self.before) if self.before.fits else None


def likely_fps(found: Answer) -> float:
    """Frames a second; 0 where nothing fits."""
    return 0.0 if found.cost.fps is None else found.cost.fps.likely


@dataclass(frozen=True)
class Advised:
    """`ways`: those that make the plan fit, or where it does already, go faster or take less; the cheapest first.
    `more_ram`, `memory`: bytes of RAM beyond what is free, with the same devices, or of memory on each device, with the
    same RAM, with which the plan would fit unchanged; None where it fits, or where no amount of one of them is
    enough."""

    ways: tuple[Advice, ...]
    more_ram: float | None = None
    memory: float | None = None


def advise(found: Answer) -> Advised:
    """For a plan as it was answered."""
    if found.fits:
        return Advised(tuple(worthwhile(found)))
    ways = tuple(fitting(found))
    return Advised(ways, needed_ram(found.asked), needed_memory(found.asked))


def worthwhile(found: Answer) -> Iterator[Advice]:
    """Single changes of a plan that fits which make it faster, or take less."""
    for way in _singles(found):
        is_published = any(change.published for change in way.changes)
        if way.after.fits and (is_published or _is_faster(way) or _takes_less(way)):
            yield way


def _is_faster(way: Advice) -> bool:
    return (way.speed_up or 0) >= FASTER


def _takes_less(way: Advice) -> bool:
    before, after = way.before.cost, way.after.cost
    slower = (way.speed_up or 0) < 1 / FASTER
    return not slower and (_less(max(after.memory), max(before.memory)) or _less(after.ram, before.ram))


def _less(after: float, before: float) -> bool:
    return after <= LESS * before and before - after >= WORTH_SAVING


def fitting(found: Answer) -> list[Advice]:
    """What makes a plan fit: single changes, the cheapest first, or where none is enough the cheapest combination."""
    singles = [way for way in _singles(found) if way.after.fits]
    if singles:
        return singles[:MOST_SINGLE]
    together = cheapest_together(found)
    return [together] if together is not None else []


def _singles(found: Answer) -> Iterator[Advice]:
    every = [change for kind in changes_for(found.case) for change in kind]
    for change in sorted(every, key=lambda change: change.cost):
        yield Advice((change,), found, answer(change.applied(found.asked)))


def cheapest_together(found: Answer) -> Advice | None:
    """Of several changes at once, the cheapest that fit; None where all of them together do not."""
    chosen = _Search(found.asked, changes_for(found.case)).cheapest()
    return None if chosen is None else Advice(chosen, found, answer(applied(chosen, found.asked)))


class _Search:
    """Goes through the kinds of changes one by one. What is chosen so far is given up where it costs as much as the
    best that was found, or does not fit even with the most of every kind that is left."""

    def __init__(self, case: Case, kinds: list[list[Change]]) -> None:
        # Where the dearest kinds are decided first, dear ways are given up early.
        self._kinds = sorted(kinds, key=lambda kind: -kind[-1].cost)
        self._case = case
        self._best: tuple[float, int, tuple[Change, ...]] | None = None

    def cheapest(self) -> tuple[Change, ...] | None:
        self._go_on((), 0)
        return None if self._best is None else self._best[2]

    def _go_on(self, chosen: tuple[Change, ...], place: int) -> None:
        rank = sum(change.cost for change in chosen), len(chosen), chosen
        if self._best is not None and rank[:2] >= self._best[:2]:
            return
        left = tuple(kind[-1] for kind in self._kinds[place:])
        if not _fits(applied((*chosen, *left), self._case)):
            return
        if not left:
            self._best = rank
            return
        for change in (None, *self._kinds[place]):
            self._go_on(chosen if change is None else (*chosen, change), place + 1)


def _fits(case: Case) -> bool:
    return answer(case).fits


def needed_ram(case: Case) -> float | None:
    """Bytes of RAM, whole GiB, that must be free beyond what is, for the plan to fit on its devices."""
    return _least(lambda gibibytes: _fits(with_more_ram(case, gibibytes * GIB)))


def with_more_ram(case: Case, more: float) -> Case:
    """On the same machine with so many more bytes of RAM, all of them free."""
    return replace(case.with_ram(case.free_ram + more), ram=case.ram + more / (1 - RESERVED_SHARE))


def needed_memory(case: Case) -> float | None:
    """Bytes of memory, whole GiB, that each device must have at least for the plan to fit."""

    def fits(gibibytes: int) -> bool:
        sizes = [max(gibibytes * GIB, device.memory or UNLIMITED) for device in case.machines.devices]
        return _fits(with_memory(case, sizes))

    return _least(fits)


def _least(fits: Callable[[int], bool]) -> float | None:
    """The least whole GiB that fit, as bytes."""
    high = 1024
    if not fits(high):
        return None
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return float(high * GIB)
