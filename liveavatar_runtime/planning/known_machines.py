"""Machines that a plan may be checked for by name, without being there."""

from dataclasses import dataclass, replace

from ..texts import GIB
from .machines import ON_PCIE_4, Machines
from .ranges import UNKNOWN

THIS_MACHINE = "this machine"
PLAIN_CARDS = (8, 12, 16, 24, 32, 48, 80, 96)
"""GiB of cards that are told by their memory alone."""
PLAIN = "1x {size} GiB card"


@dataclass(frozen=True)
class Cards:
    """So many equal cards in one machine, of those that `presets` has."""

    card: str
    count: int


KNOWN: dict[str, Cards] = {
    "1x RTX 4070": Cards("RTX 4070", 1),
    "1x RTX 4080": Cards("RTX 4080", 1),
    "1x RTX 4090": Cards("RTX 4090", 1),
    "1x RTX 5090": Cards("RTX 5090", 1),
    "1x L40S": Cards("L40S", 1),
    "1x H100": Cards("H100", 1),
    "2x RTX 4090": Cards("RTX 4090", 2),
    "4x RTX 4090": Cards("RTX 4090", 4),
    "2x RTX 5090": Cards("RTX 5090", 2),
    "5x H800": Cards("H800", 5),
    "8x A100 80 GB": Cards("A100", 8),
}
NAMES = (THIS_MACHINE, *KNOWN, *(PLAIN.format(size=size) for size in PLAIN_CARDS))
"""What a user may choose."""


def known_machine(name: str, ram: float) -> Machines:
    """One of `NAMES` but for the first, with so many bytes of RAM free for weights and caches.

    Of a card that is told by its memory alone only relations of speeds count (source "unknown").
    """
    # Imported here: it reads the measured rates from files.
    from .presets import CARDS, PRESETS, RTX_4090

    if name not in KNOWN:
        (size,) = (size for size in PLAIN_CARDS if PLAIN.format(size=size) == name)
        card = replace(RTX_4090, name=f"{size} GiB card", memory=size * GIB, ram=ram, source=UNKNOWN)
        return Machines.of(name, card, (1,), ON_PCIE_4)
    cards = KNOWN[name]
    known = next((machines for machines in PRESETS if machines.devices[0].name == cards.card), None)
    links = ON_PCIE_4 if known is None else known.interconnect
    card = CARDS[cards.card] if known is None else known.devices[0]
    return Machines.of(name, replace(card, ram=ram), (cards.count,), links)
