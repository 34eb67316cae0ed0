"""Devices together and the links between them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from .device import Device
from .simulator import Link


@dataclass(frozen=True, kw_only=True)
class Interconnect:
    """Links: between two cards of one machine, between two machines, between a card and its system's memory."""

    cards: Link
    machines: Link
    host: Link


@dataclass(frozen=True, kw_only=True)
class Machines:
    """`devices` in order, `machine_of[i]` the machine that device i is in. Those of one machine share its RAM, of which
    each tells all. `decoder`: the first device that decodes beside its own work, None when another one does."""

    name: str
    devices: tuple[Device, ...]
    machine_of: tuple[int, ...]
    interconnect: Interconnect
    decoder: int | None = None

    @classmethod
    def of(cls, name: str, device: Device, counts: tuple[int, ...], interconnect: Interconnect) -> "Machines":
        """Equal devices, so many in each machine."""
        machine_of = tuple(number for number, size in enumerate(counts) for _ in range(size))
        return cls(name=name, devices=(device,) * len(machine_of), machine_of=machine_of, interconnect=interconnect)

    @classmethod
    def here(cls, devices: Iterable[Device], decoder: int | None = None) -> "Machines":
        """Devices of this machine. How fast its links are is not measured: assumed is PCIe 4.0 x16 without peer-to-peer
        access, and as much between RAM and devices."""
        found = tuple(devices)
        return cls(
            name="this machine",
            devices=found,
            machine_of=(0,) * len(found),
            interconnect=ON_PCIE_4,
            decoder=decoder,
        )

    @property
    def is_one_device(self) -> bool:
        """Whether all stages are on the same device."""
        return self.devices[0].shared_by == len(self.devices)

    def between(self, first: int, second: int) -> Link:
        same = self.machine_of[first] == self.machine_of[second]
        return self.interconnect.cards if same else self.interconnect.machines

    def decoding_at(self, number: int | None, size: float) -> "Machines":
        """With the VAE and its work, so many bytes, beside the work of a device; None: on none of them."""
        if number is None:
            return self
        devices = list(self.devices)
        devices[number] = replace(devices[number], occupied=size)
        return replace(self, devices=tuple(devices), decoder=number)


PCIE_4 = Link(20e9, 20e-6)
"""Card to card through the system's memory, as cards without peer-to-peer access do."""
HOST_PCIE_4 = Link(24e9, 10e-6)
NVLINK_H800 = Link(160e9, 10e-6)
NVLINK_A100 = Link(240e9, 10e-6)
HOST_PCIE_5 = Link(48e9, 10e-6)
ETHERNET_10G = Link(1.1e9, 60e-6)
ON_PCIE_4 = Interconnect(cards=PCIE_4, machines=ETHERNET_10G, host=HOST_PCIE_4)
ON_NVLINK_H800 = Interconnect(cards=NVLINK_H800, machines=ETHERNET_10G, host=HOST_PCIE_5)
ON_NVLINK_A100 = Interconnect(cards=NVLINK_A100, machines=ETHERNET_10G, host=HOST_PCIE_4)
