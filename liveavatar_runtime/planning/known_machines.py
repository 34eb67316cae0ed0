"""Machines that a plan may be checked for by name, without being there."""

from dataclasses import dataclass, replace

from ..texts import GIB
from .device import Device
from .machines import ON_PCIE_4, Machines
from .ranges import UNKNOWN

THIS_MACHINE = "this machine"
PLAIN_CARDS = (8, 12, 16, 24, 32, 48, 80, 96)
"""GiB of cards that are told by their memory alone."""
PLAIN = "1x {size} GiB card"


@dataclass(frozen=True)
class Cards:
    """So many equal cards in one machine. `size`: GiB of each; `teraflops`: half of the half-precision rate that the
    card is sold with, for one that `presets` does not have."""

    card: str
    count: int
    size: int = 0
    teraflops: float = 0.0


KNOWN: dict[str, Cards] = {
    "1x RTX 4070": Cards("RTX 4070", 1, 12, 29),
    "1x RTX 4080": Cards("RTX 4080", 1, 16, 49),
    "1x RTX 4090": Cards("RTX 4090", 1),
    "1x RTX 5090": Cards("RTX 5090", 1, 32, 105),
    "1x L40S": Cards("L40S", 1, 48, 181),
    "1x H100": Cards("H100", 1),
    "2x RTX 4090": Cards("RTX 4090", 2),
    "4x RTX 4090": Cards("RTX 4090", 4),
    "2x RTX 5090": Cards("RTX 5090", 2, 32, 105),
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
    from .presets import PRESETS, RTX_4090

    if name not in KNOWN:
        (size,) = (size for size in PLAIN_CARDS if PLAIN.format(size=size) == name)
        card = replace(RTX_4090, name=f"{size} GiB card", memory=size * GIB, ram=ram, source=UNKNOWN)
        return Machines.of(name, card, (1,), ON_PCIE_4)
    cards = KNOWN[name]
    known = next((machines for machines in PRESETS if machines.devices[0].name == cards.card), None)
    card = Device(name=cards.card, memory=cards.size * GIB, flops=cards.teraflops * 1e12)
    links = ON_PCIE_4
    if known is not None:
        card, links = known.devices[0], known.interconnect
    return Machines.of(name, replace(card, ram=ram), (cards.count,), links)
