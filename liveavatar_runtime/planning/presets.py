"""Known cards and machines of them: measured where there is a calibration, else assumed.

Calibrations are files that are read when this is imported, so nothing that a node pack needs to start imports it.
"""

from collections.abc import Iterable
from dataclasses import replace

from ..texts import GIB
from .calibration import Calibration, load_calibrations
from .device import Device
from .machines import HOST_PCIE_5, ON_NVLINK_A100, ON_NVLINK_H800, ON_PCIE_4, Machines
from .simulator import Link

PREDICTED = (
    Device(name="RTX 4090", memory=24 * GIB, flops=85e12),
    Device(name="H800", memory=80 * GIB, flops=450e12),
    Device(name="A100", memory=80 * GIB, flops=160e12),
)
"""As they are assumed where nothing was measured."""
CALIBRATIONS = load_calibrations()
RTX_4090, H800, A100 = (card.calibrated(CALIBRATIONS) for card in PREDICTED)


def measured_machines(calibrations: Iterable[Calibration]) -> tuple[Machines, ...]:
    """One machine with one card for each measured card that is none of the above, with its measured link to RAM."""
    known = {card.name for card in PREDICTED}
    return tuple(_one_card(found) for found in calibrations if found.name not in known)


def _one_card(found: Calibration) -> Machines:
    card = Device(name=found.name, memory=found.memory, flops=found.flops).calibrated({found.name: found})
    host = HOST_PCIE_5 if found.host_bandwidth is None else Link(found.host_bandwidth, HOST_PCIE_5.latency)
    return Machines.of(f"1x {found.name}", card, (1,), replace(ON_PCIE_4, host=host))


PRESETS = (
    Machines.of("1x RTX 4090", RTX_4090, (1,), ON_PCIE_4),
    Machines.of("2x RTX 4090", RTX_4090, (2,), ON_PCIE_4),
    Machines.of("4x RTX 4090", RTX_4090, (4,), ON_PCIE_4),
    Machines.of("2 machines with 4x RTX 4090", RTX_4090, (4, 4), ON_PCIE_4),
    Machines.of("5x H800", H800, (5,), ON_NVLINK_H800),
    Machines.of("8x A100 80 GB", A100, (8,), ON_NVLINK_A100),
    *measured_machines(CALIBRATIONS.values()),
)
