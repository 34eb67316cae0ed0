"""The table of cards in the README: `python -m benchmarks.card_table` prints its rows.

Memory and speed are the planner's, for one card with the VAE beside the sampling, but for speeds that were measured.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from liveavatar_runtime.config import WAN_S2V_14B
from liveavatar_runtime.executors.advisor import Advisor
from liveavatar_runtime.planning.device import Device
from liveavatar_runtime.planning.forecast import Setting
from liveavatar_runtime.planning.machines import HOST_PCIE_5, ON_PCIE_4, Machines
from liveavatar_runtime.planning.memory import CacheChoice, KVTypeChoice, choose_placement, decode_bytes, ram_bytes
from liveavatar_runtime.planning.presets import CARDS, PRESETS, RTX_4090
from liveavatar_runtime.planning.workload import DECODER_PARAMETERS, Workload
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.texts import GIB
from liveavatar_runtime.vae.config import VaeConfig

WEIGHTS = {"fp8": 15.6 * GIB, "bf16": 30.4 * GIB}
"""Of the transformer's file."""
OTHERS = 12 * GIB
"""Text encoder in fp8 (6.3), LoRA (1.2), VAE and audio encoder (0.8), ComfyUI and the system (4), rounded."""
H100 = next(machines.devices[0] for machines in PRESETS if machines.name == "1x H100")
MEASURED = {("H100", "bf16", "688x368"): "8.9, measured"}
"""Frames a second, end to end: benchmarks/results/card-h100.md."""


@dataclass(frozen=True)
class Row:
    """A card with what is set for it."""

    card: Device
    weights: str
    size: str
    kv_dtype: KVTypeChoice = "auto"
    links: str = "PCIe 4.0"

    @property
    def work(self) -> Workload:
        width, height = map(int, self.size.split("x"))
        plan = ClipPlan(width=width, height=height, keep_aspect=False)
        return Workload(WAN_S2V_14B, plan, stored_bytes=int(WEIGHTS[self.weights]))

    @property
    def machines(self) -> Machines:
        links = ON_PCIE_4 if self.links == "PCIe 4.0" else replace(ON_PCIE_4, host=HOST_PCIE_5)
        return Machines.of(self.card.name, self.card, (1,), links)

    def line(self) -> str:
        """A row in Markdown."""
        work, choice = self.work, CacheChoice(kv_dtype=self.kv_dtype)
        occupied = DECODER_PARAMETERS * 2 + decode_bytes(VaeConfig(), work.plan, torch.bfloat16)
        placement = choose_placement(work, replace(self.card, occupied=occupied), choice)
        caches = ram_bytes(work, placement)
        options = Advisor(work, self.machines).options_of(Setting(placement))
        (local,) = (option for option in options if option.executor == "local")
        speed = MEASURED.get((self.card.name, self.weights, self.size), f"{local.fps}, predicted")
        memory = WEIGHTS[self.weights] + OTHERS + caches
        settings = f"`{self.size}`" + (f", `kv_dtype` `{self.kv_dtype}`" if self.kv_dtype != "auto" else "")
        card = f"{(self.card.memory or 0) / GIB:.0f} GiB ({self.card.name})"
        return f"| {card} | {self.weights} | {settings} | {memory / GIB:.0f} GiB | {speed} |"


RTX_4070, RTX_4080, RTX_5090, L40S = (CARDS[name] for name in ("RTX 4070", "RTX 4080", "RTX 5090", "L40S"))
ROWS = (
    Row(RTX_4070, "fp8", "384x256", "fp8"),
    Row(RTX_4080, "fp8", "384x256", "fp8"),
    Row(RTX_4080, "fp8", "688x368", "fp8"),
    Row(RTX_4090, "fp8", "384x256", "fp8"),
    Row(RTX_4090, "fp8", "688x368", "fp8"),
    Row(RTX_4090, "fp8", "688x368"),
    Row(RTX_4090, "bf16", "688x368"),
    Row(RTX_5090, "fp8", "688x368", "fp8"),
    Row(RTX_5090, "fp8", "688x368"),
    Row(L40S, "fp8", "688x368", "fp8"),
    Row(L40S, "fp8", "688x368"),
    Row(H100, "fp8", "688x368", links="PCIe 5.0"),
    Row(H100, "bf16", "688x368", links="PCIe 5.0"),
)


def lines() -> Iterator[str]:
    """The rows of the table, without its header."""
    return (row.line() for row in ROWS)


if __name__ == "__main__":
    print(*lines(), sep="\n")
