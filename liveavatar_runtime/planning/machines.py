"""Cards and the links between them, as the planner knows them."""

from dataclasses import dataclass

from .simulator import Link

GIB = 2**30
RESERVED_SHARE = 0.08
"""Of a card's memory: the driver's context, the allocator's waste, the desktop."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """`memory` in bytes; `flops`: sustained operations/s in half precision on this model, about half of the peak."""

    name: str
    memory: float
    flops: float

    @property
    def usable(self) -> float:
        """Bytes that a program can fill."""
        return self.memory * (1 - RESERVED_SHARE)


@dataclass(frozen=True, kw_only=True)
class Machines:
    """`cards` in order, `machine_of[i]` the machine that card i is in. `link`: between two cards of one machine,
    `network` between two machines, `host` between a card and the system's memory; `ram`: bytes of it that each machine
    has to spare."""

    name: str
    cards: tuple[Card, ...]
    machine_of: tuple[int, ...]
    link: Link
    network: Link
    host: Link
    ram: float = 128 * GIB

    @classmethod
    def of(cls, name: str, card: Card, counts: tuple[int, ...], link: Link, network: Link, host: Link) -> "Machines":
        """Equal cards, so many in each machine."""
        machine_of = tuple(number for number, size in enumerate(counts) for _ in range(size))
        cards = (card,) * len(machine_of)
        return cls(name=name, cards=cards, machine_of=machine_of, link=link, network=network, host=host)

    def between(self, first: int, second: int) -> Link:
        return self.link if self.machine_of[first] == self.machine_of[second] else self.network


PCIE_4 = Link(20e9, 20e-6)
"""Card to card through the system's memory, as cards without peer-to-peer access do."""
HOST_PCIE_4 = Link(24e9, 10e-6)
NVLINK_H800 = Link(160e9, 10e-6)
NVLINK_A100 = Link(240e9, 10e-6)
HOST_PCIE_5 = Link(48e9, 10e-6)
ETHERNET_10G = Link(1.1e9, 60e-6)

RTX_4090 = Card(name="RTX 4090", memory=24 * GIB, flops=85e12)
H800 = Card(name="H800", memory=80 * GIB, flops=450e12)
A100 = Card(name="A100", memory=80 * GIB, flops=160e12)

PRESETS = (
    Machines.of("1x RTX 4090", RTX_4090, (1,), PCIE_4, ETHERNET_10G, HOST_PCIE_4),
    Machines.of("2x RTX 4090", RTX_4090, (2,), PCIE_4, ETHERNET_10G, HOST_PCIE_4),
    Machines.of("4x RTX 4090", RTX_4090, (4,), PCIE_4, ETHERNET_10G, HOST_PCIE_4),
    Machines.of("2 machines with 4x RTX 4090", RTX_4090, (4, 4), PCIE_4, ETHERNET_10G, HOST_PCIE_4),
    Machines.of("5x H800", H800, (5,), NVLINK_H800, ETHERNET_10G, HOST_PCIE_5),
    Machines.of("8x A100 80 GB", A100, (8,), NVLINK_A100, ETHERNET_10G, HOST_PCIE_4),
)
