"""What so many videos an hour need: cards, memory, disk and card hours, by the simulator. docs/SCALE.md has the tables.

python -m benchmarks.scale
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from liveavatar_runtime.config import WAN_S2V_14B
from liveavatar_runtime.executors.advisor import Advisor
from liveavatar_runtime.planning.device import Device
from liveavatar_runtime.planning.forecast import Option
from liveavatar_runtime.planning.machines import ON_NVLINK_A100, ON_NVLINK_H800, ON_PCIE_4, Interconnect, Machines
from liveavatar_runtime.planning.presets import A100, H800, PRESETS, RTX_4090
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.spool.latent_stream import clip_file_bytes
from liveavatar_runtime.texts import GIB

PLAN = ClipPlan(width=688, height=368, keep_aspect=False, num_clip=10)
"""Half a minute: 10 clips of 48 frames at 16 frames a second."""
RATES = (1, 100, 10_000)
BUSY = 0.8
"""Share of the time that a card may be planned for: the rest is loading, waiting, restarts and unequal load."""
PREDICTED_OVER_MEASURED = 1.29
"""Frames a second, end to end, on the H100 before its rates were measured (benchmarks/results/card-h100.md)."""


@dataclass(frozen=True)
class Card:
    """One card that makes a video by itself, and what the simulator says of it."""

    name: str
    source: str
    option: Option

    @property
    def seconds(self) -> float:
        """Of a card, for a video."""
        return PLAN.segment.frames / self.option.fps.likely

    @property
    def doubt(self) -> float:
        """How many times slower it may be than is likely."""
        return self.option.fps.likely / self.option.fps.low

    def needed(self, videos_an_hour: int, doubt: float = 1.0) -> int:
        """Cards for so many videos an hour."""
        return math.ceil(videos_an_hour * self.seconds * doubt / 3600 / BUSY)


def _alone(device: Device, links: Interconnect) -> Machines:
    return Machines.of(f"1x {device.name}", device, (1,), links)


@cache
def cards() -> tuple[Card, ...]:
    """Each known card, measured ones first."""
    known = [_alone(RTX_4090, ON_PCIE_4), _alone(A100, ON_NVLINK_A100), _alone(H800, ON_NVLINK_H800)]
    names = {machines.name for machines in known}
    measured = [one for one in PRESETS if len(one.devices) == 1 and one.name not in names]
    work = Workload(WAN_S2V_14B, PLAN)
    alone = [(machines.devices[0], Advisor(work, machines).best()) for machines in [*measured, *known]]
    return tuple(Card(device.name, device.source, best) for device, best in alone)


def table() -> Iterator[str]:
    """Lines of the table of cards."""
    wanted = " | ".join(f"Cards for {rate:,} an hour" for rate in RATES)
    yield f"| Card | Rate | Frames a second | Seconds a video | {wanted} |"
    yield "| --- | --- | --- | --- |" + " --- |" * len(RATES)
    for card in cards():
        counts = []
        for rate in RATES:
            least, most = card.needed(rate), card.needed(rate, card.doubt)
            counts.append(f"{least:,}" if least == most else f"{least:,} to {most:,}")
        row = [card.name, card.source, f"{card.option.fps.likely:.1f}", f"{card.seconds:.0f}", *counts]
        yield f"| {' | '.join(row)} |"


def disk() -> str:
    """The size of finished clips."""
    video = PLAN.num_clip * clip_file_bytes(PLAN)
    sizes = ", ".join(f"{rate * video / GIB:.3g} GiB" for rate in RATES)
    return f"Finished clips of a video: {video / 2**20:.0f} MiB; of 1, 100 and 10,000 videos: {sizes}."


if __name__ == "__main__":
    print(*table(), "", disk(), sep="\n")
