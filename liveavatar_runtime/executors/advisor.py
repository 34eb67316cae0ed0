"""Which executor suits which cards: each is simulated, those that fit are ordered by speed.

    python -m liveavatar_runtime.executors.advisor

prints the table of the documentation.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ..config import WAN_S2V_14B
from ..dit.placement import IN_RAM, ON_DEVICE
from ..errors import MachineError
from ..planning.forecast import Forecast, Option, Setting
from ..planning.machines import Machines
from ..planning.memory import decode_bytes
from ..planning.presets import PRESETS
from ..planning.workload import DECODER_PARAMETERS, Workload
from ..sampling.plan import ClipPlan
from ..texts import gib
from ..vae.config import VaeConfig
from .table import TABLE

EQUAL = 0.1
"""Speeds that differ by less, relatively, are equally good: no prediction is better than that."""


@dataclass(frozen=True)
class Advisor:
    """Predicts executors for a workload on machines, with the released VAE; `names`: which ones."""

    work: Workload
    machines: Machines
    names: tuple[str, ...] = tuple(TABLE)

    def options(self) -> list[Option]:
        """All ways, those that fit first, the faster the earlier; of equally fast ones that with less in RAM, then
        that with less on the cards."""
        settings = [Setting(placement, alone) for placement in (ON_DEVICE, IN_RAM) for alone in (False, True)]
        found = [option for setting in settings for option in self.options_of(setting)]
        return sorted(found, key=_rank)

    def best(self) -> Option:
        """Raises MachineError when nothing fits."""
        first = self.options()[0]
        if not first.fits:
            raise MachineError(
                f"no executor fits on {self.machines.name}: {first.executor} comes nearest with "
                f"{gib(max(first.memory))} on a card. Use a smaller size, fewer steps, or more cards."
            )
        return first

    def options_of(self, setting: Setting) -> Iterator[Option]:
        """Of each executor with a setting."""
        size = DECODER_PARAMETERS * 2 + decode_bytes(VaeConfig(), self.work.plan, torch.bfloat16)
        machines = self.machines.decoding_at(None if setting.vae_alone else 0, size)
        forecast = Forecast(self.work, machines, size, setting)
        if forecast.cards > 0:
            for name in self.names:
                yield from TABLE[name].forecast(forecast)


def _rank(option: Option) -> tuple[bool, int, int, float]:
    return not option.fits, -round(math.log(option.fps.likely) / EQUAL), len(option.from_ram), max(option.memory)


HEADER = (
    "| Cards | Executor | On cards | In RAM | Most on a card | Frames a second | First block |",
    "| --- | --- | --- | --- | --- | --- | --- |",
)


def table(work: Workload, machines: Machines) -> list[str]:
    """Markdown rows: the best way of each executor, the best executor first."""
    best: dict[str, Option] = {}
    for option in Advisor(work, machines).options():
        best.setdefault(option.executor, option)
    rows = []
    for option in best.values():
        cards = f"{option.stages} + 1 for the VAE" if option.setting.vae_alone else f"{option.stages}"
        speed = f"{option.fps} | {option.first_block} s" if option.fits else "does not fit | -"
        memory = f"{option.from_ram or '-'} | {gib(max(option.memory))}"
        rows.append(f"| {machines.name} | `{option.executor}` | {cards} | {memory} | {speed} |")
    return rows


def documented() -> Iterator[str]:
    """The lines of the table in docs/EXECUTORS.md; of each machine's rows docs/MEMORY.md has the first."""
    work = Workload(WAN_S2V_14B, ClipPlan(width=688, height=368, keep_aspect=False))
    yield from HEADER
    for machines in PRESETS:
        yield from table(work, machines)


def rates(machines: Sequence[Machines] = PRESETS) -> str:
    """The rate of each card, and where it comes from: one line, which docs/EXECUTORS.md has too."""
    cards = {card.name: card for one in machines for card in one.devices}
    told = [f"{card.name} {card.flops / 1e12:.0f} TFLOP/s ({card.source})" for card in cards.values()]
    return f"Sustained rates: {', '.join(told)}."


if __name__ == "__main__":
    print(*documented(), "", rates(), sep="\n")
