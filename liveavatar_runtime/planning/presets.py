"""Known cards and machines of them: measured where there is a calibration, else assumed.

Calibrations are files that are read when this is imported, so nothing that a node pack needs to start imports it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..config import WAN_S2V_14B
from ..sampling.plan import ClipPlan
from ..texts import GIB
from .calibration import Calibration, load_calibrations
from .device import Device
from .machines import HOST_PCIE_5, ON_NVLINK_A100, ON_NVLINK_H800, ON_PCIE_4, Machines
from .rates import Rates
from .simulator import Link
from .workload import Workload

PUBLISHED_ERROR, ASSUMED_ERROR = 0.5, 0.7
"""Of speeds from figures that others published for a card or its chip, and from data sheets alone."""


@dataclass(frozen=True)
class SoldCard:
    """A card by its data sheet: GiB, dense half precision with sums in fp32 (TFLOP/s), GB/s of its memory. `figure`:
    what was published for its speed with such models, "" for nothing."""

    name: str
    size: int
    teraflops: float
    bandwidth: float
    figure: str = ""

    def device(self) -> Device:
        rates, work = Rates.sold(self.teraflops * 1e12, self.bandwidth * 1e9), Workload(WAN_S2V_14B, USUAL)
        decoding = rates.decode_seconds(work.decode_flops(), work.decode_moved())
        return Device(
            name=self.name,
            memory=self.size * GIB,
            flops=work.evaluation_flops(work.layers) / rates.seconds(work.operations(work.layers)),
            decode_flops=work.decode_flops() / decoding,
            rates=rates,
            source="published" if self.figure else "assumed",
            error=PUBLISHED_ERROR if self.figure else ASSUMED_ERROR,
        )


USUAL = ClipPlan(width=688, height=368, keep_aspect=False)
SAME_AS_H100 = "The H100's chip; the authors' program, in fp8 and compiled, makes 45.2 frames a second on five"
SOLD = (
    SoldCard("RTX 4090", 24, 165.2, 1008, "110 TFLOP/s for Wan 14B with Diffusers on a 4090 D, which has 147 for 165"),
    SoldCard("H800", 80, 989, 3350, SAME_AS_H100),
    SoldCard("A100", 80, 312, 2039),
    SoldCard("RTX 3090", 24, 71, 936),
    SoldCard("RTX 4070", 12, 58.3, 504),
    SoldCard("RTX 4080", 16, 97.5, 717),
    SoldCard("RTX 5090", 32, 209.5, 1792),
    SoldCard("L40S", 48, 362, 864),
    SoldCard("H200", 141, 989, 4800, SAME_AS_H100),
)
"""Cards that were not measured. A card that is not here has no speed."""
PREDICTED = tuple(card.device() for card in SOLD)
CALIBRATIONS = load_calibrations()
CARDS = {card.name: card.calibrated(CALIBRATIONS) for card in PREDICTED}
RTX_4090, H800, A100 = (CARDS[name] for name in ("RTX 4090", "H800", "A100"))


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
