"""Which faults are tried: all of them, or a part that a seed chooses."""

import random
from collections.abc import Mapping, Sequence

from .campaign import Fault
from .shim import CHANGES, ERRORS, FAIL, FULL, GONE, KILL, POWER, SHORT, SPACE, TORN, WRITES, Call, Site

ENOSPC, EIO = 28, 5


def faults_at(scenario: str, call: Call) -> list[Fault]:
    """Everything that can go wrong at a call. Before one that changes nothing a process has nothing new to lose."""

    def fault(mode: int, error: int = 0) -> Fault:
        return Fault(scenario, mode, call.number, call.site, error)

    found = [fault(FAIL, error) for error in ERRORS[call.site.function]]
    if found:
        found.append(fault(GONE, EIO))
    if call.kinds & CHANGES:
        found += [fault(KILL), fault(POWER)]
    if call.kinds & SPACE:
        found.append(fault(FULL, ENOSPC))
    if call.kinds & WRITES:
        found += [fault(TORN), fault(SHORT)]
    return found


def all_faults(calls: Mapping[str, Sequence[Call]]) -> list[Fault]:
    return [fault for name, made in calls.items() for call in made for fault in faults_at(name, call)]


def sites(calls: Mapping[str, Sequence[Call]]) -> list[tuple[str, Site]]:
    """Call sites by scenario, in the order they are met."""
    return list(dict.fromkeys((name, call.site) for name, made in calls.items() for call in made))


def part_of_faults(calls: Mapping[str, Sequence[Call]], seed: int, count: int) -> list[Fault]:
    """So many faults, each at another call site: parts with following seeds meet all sites in turn."""
    order = sites(calls)
    random.Random(0).shuffle(order)
    chooser = random.Random(seed)
    first = seed * count
    chosen = [order[number % len(order)] for number in range(first, first + min(count, len(order)))]
    found = []
    for name, site in chosen:
        call = chooser.choice([call for call in calls[name] if call.site == site])
        found.append(chooser.choice(faults_at(name, call)))
    return found
