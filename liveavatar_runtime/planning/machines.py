"""Cards and the links between them as the planner knows them: measured where there is a calibration, else predicted."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from .calibration import Calibration, load_calibrations
from .simulator import Link

GIB = 2**30
RESERVED_SHARE = 0.08
"""Of a card's memory: the driver's context, the allocator's waste, the desktop."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """`memory` in bytes; `flops`: sustained operations/s in half precision on this model, about half of the peak;
    `decode_flops`: of the VAE's decoder, None for the same. `source`: where the rates come from."""

    name: str
    memory: float
    flops: float
    decode_flops: float | None = None
    source: Literal["predicted", "measured"] = "predicted"

    @property
    def usable(self) -> float:
        """Bytes that a program can fill."""
        return self.memory * (1 - RESERVED_SHARE)

    @property
    def decoding(self) -> float:
        """Operations/s of the decoder."""
        return self.flops if self.decode_flops is None else self.decode_flops

    def calibrated(self, calibrations: Mapping[str, Calibration]) -> "Card":
        """With the rates that were measured on a card of this name, if one was; its own memory stays."""
        found = calibrations.get(self.name)
        if found is None:
            return self
        return replace(self, flops=found.flops, decode_flops=found.decode_flops, source="measured")


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

PREDICTED = (
    Card(name="RTX 4090", memory=24 * GIB, flops=85e12),
    Card(name="H800", memory=80 * GIB, flops=450e12),
    Card(name="A100", memory=80 * GIB, flops=160e12),
)
"""As they are assumed where nothing was measured."""
CALIBRATIONS = load_calibrations()
RTX_4090, H800, A100 = (card.calibrated(CALIBRATIONS) for card in PREDICTED)


def measured_machines(calibrations: Iterable[Calibration]) -> tuple[Machines, ...]:
    """One machine with one card for each measured card that is none of the above, with its measured link to RAM."""
    known = {card.name for card in PREDICTED}
    return tuple(_one_card(found) for found in calibrations if found.name not in known)


def _one_card(found: Calibration) -> Machines:
    card = Card(
        name=found.name, memory=found.memory, flops=found.flops, decode_flops=found.decode_flops, source="measured"
    )
    host = HOST_PCIE_5 if found.host_bandwidth is None else Link(found.host_bandwidth, HOST_PCIE_5.latency)
    return Machines.of(f"1x {found.name}", card, (1,), PCIE_4, ETHERNET_10G, host)


PRESETS = (
    Machines.of("1x RTX 4090", RTX_4090, (1,), PCIE_4, ETHERNET_10G, HOST_PCIE_4),
    Machines.of("2x RTX 4090", RTX_4090, (2,), PCIE_4, ETHERNET_10G, HOST_PCIE_4),
    Machines.of("4x RTX 4090", RTX_4090, (4,), PCIE_4, ETHERNET_10G, HOST_PCIE_4),
    Machines.of("2 machines with 4x RTX 4090", RTX_4090, (4, 4), PCIE_4, ETHERNET_10G, HOST_PCIE_4),
    Machines.of("5x H800", H800, (5,), NVLINK_H800, ETHERNET_10G, HOST_PCIE_5),
    Machines.of("8x A100 80 GB", A100, (8,), NVLINK_A100, ETHERNET_10G, HOST_PCIE_4),
    *measured_machines(CALIBRATIONS.values()),
)
