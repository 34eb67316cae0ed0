"""Which executor suits which cards: each is simulated, those that fit are ordered by speed.

    python -m liveavatar_runtime.planning.advisor

prints the table of the documentation. Speeds are predictions from sustained rates (`machines.Card.flops`), not
measurements; what can be relied on is the order of the executors and their memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from ..config import WAN_S2V_14B
from ..errors import MachineError
from ..parallel.partition import Capacity, LayerCosts, split_layers
from ..parallel.schedule import LayerSchedule, PipelineSchedule, Span, TimestepSchedule, split_steps
from ..sampling.plan import ClipPlan
from ..vae.config import VaeConfig
from .machines import GIB, PRESETS, Machines
from .memory import ON_DEVICE, Placement, decode_bytes
from .simulator import Costs, simulate
from .workload import DECODER_PARAMETERS, Workload

BLOCKS = 40
"""Blocks that are simulated."""
IN_RAM = Placement("ram")


@dataclass(frozen=True)
class Setting:
    """Where the caches are, and whether one more card is used for the decoder alone."""

    placement: Placement = ON_DEVICE
    vae_alone: bool = False


@dataclass(frozen=True, kw_only=True)
class Option:
    """One way to use the cards. `memory`: bytes on each card that is used; `streams`: whether weights come from RAM."""

    executor: str
    setting: Setting
    memory: tuple[float, ...]
    fits: bool
    fps: float
    first_block: float
    streams: bool = False

    @property
    def stages(self) -> int:
        """Cards without that of the decoder."""
        return len(self.memory) - self.setting.vae_alone

    @property
    def from_ram(self) -> str:
        """What is kept in system memory, for people."""
        parts = ["weights"] * self.streams + ["caches"] * (self.setting.placement.kv_cache == "ram")
        return " and ".join(parts)


@dataclass(frozen=True)
class Advisor:
    """Predicts executors for a workload on machines."""

    work: Workload
    machines: Machines

    def options(self) -> list[Option]:
        """All ways, those that fit first, the faster the earlier; of equally fast ones that with less in RAM, then
        that with less on the cards."""
        settings = [Setting(placement, alone) for placement in (ON_DEVICE, IN_RAM) for alone in (False, True)]
        found = [option for setting in settings for option in self._options(setting)]
        return sorted(found, key=lambda o: (not o.fits, -round(o.fps, 1), len(o.from_ram), max(o.memory)))

    def best(self) -> Option:
        """Raises MachineError when nothing fits."""
        first = self.options()[0]
        if not first.fits:
            raise MachineError(
                f"no executor fits on {self.machines.name}: {first.executor} comes nearest with "
                f"{max(first.memory) / GIB:.1f} GiB on a card. Use a smaller size, fewer steps, or more cards."
            )
        return first

    def _options(self, setting: Setting) -> Iterator[Option]:
        cards = len(self.machines.cards) - setting.vae_alone
        if cards < 1:
            return
        yield self._local(setting)
        if cards == 1:
            return
        yield self._fsdp(cards, setting)
        steps = split_steps(self.work.plan.steps, cards)
        yield self._pipeline("timestep_pipeline", TimestepSchedule(self._layers.stop, steps), setting)
        if cards <= self._layers.stop:
            layers = self._split(cards, setting)
            yield self._pipeline("layer_pipeline", LayerSchedule(layers, self.work.plan.steps), setting)

    @property
    def _layers(self) -> range:
        return range(self.work.config.num_layers)

    @property
    def _steps(self) -> range:
        return range(self.work.plan.steps)

    def _split(self, cards: int, setting: Setting) -> tuple[range, ...]:
        """Layers by time; the first card has the decoder as well, unless that has one of its own."""
        work = self.work
        decoding = 0.0 if setting.vae_alone else work.decode_flops() / work.plan.steps
        costs = LayerCosts(
            seconds=[work.layer_flops(layer) for layer in self._layers],
            bytes=[0] * len(self._layers),
            first_seconds=work.costs.first + decoding,
            last_seconds=work.costs.last,
        )
        return split_layers(costs, [Capacity(card.flops) for card in self.machines.cards[:cards]])

    def _pipeline(self, name: str, schedule: PipelineSchedule, setting: Setting) -> Option:
        work, parts = self.work, schedule.parts
        stages = range(len(parts))
        costs = Costs(
            evaluate=[self._evaluation(part.layers, stage, setting) for stage, part in enumerate(parts)],
            sink=[self._sink(part.layers, stage) for stage, part in enumerate(parts)],
            links={(a, b): self.machines.between(a, b) for a in stages for b in stages if a != b},
            hidden_bytes=work.hidden_bytes(),
            latents_bytes=work.latents_bytes(),
            sink_bytes=work.hidden_bytes(),
            decode=self._decode_seconds(setting, len(parts)),
            decoder_at=None if setting.vae_alone else 0,
        )
        memory = [
            float(work.weights(part.layers) + work.working(part.layers, part.steps, setting.placement))
            for part in parts
        ]
        ram = [float(work.ram(part.layers, part.steps, setting.placement)) for part in parts]
        return self._option(name, schedule, costs, memory, ram, setting)

    def _evaluation(self, layers: range, card: int, setting: Setting) -> float:
        """Seconds of one evaluation by some layers; caches in RAM are fetched meanwhile."""
        work = self.work
        flops = work.evaluation_flops(layers)
        fetching = self.machines.host.seconds(work.cache_traffic(layers, setting.placement))
        return max(flops / self.machines.cards[card].flops, fetching)

    def _sink(self, layers: range, card: int) -> float:
        return len(layers) * self.work.sink_layer_flops() / self.machines.cards[card].flops

    def _decode_seconds(self, setting: Setting, stages: int) -> float:
        card = self.machines.cards[stages if setting.vae_alone else 0]
        return self.work.decode_flops() / card.flops

    def _local(self, setting: Setting) -> Option:
        """The first card alone; weights that do not fit are streamed, all steps of a block in one batch."""
        work, card = self.work, self.machines.cards[0]
        weights = work.weights(self._layers)
        beside = 0.0 if setting.vae_alone else self._decoder_bytes()
        working = work.working(self._layers, self._steps, setting.placement)
        streams = weights + working + beside > card.usable
        if streams:
            working = work.working(self._layers, self._steps, replace(setting.placement, batched=True))
        window = 2 * work.weights(range(1, 2))
        resident = max(window, min(weights, card.usable - working - beside)) if streams else weights
        # A batch reads the streamed weights once a block, so each step bears its share of the time.
        moving = self.machines.host.seconds(weights - resident + window * streams) / work.plan.steps
        ram = work.ram(self._layers, self._steps, setting.placement) + weights * streams
        option = self._single("local", 1, moving, resident + working, ram, setting)
        return replace(option, streams=streams)

    def _fsdp(self, cards: int, setting: Setting) -> Option:
        """Every card does every evaluation; the next layer is gathered meanwhile, over the slowest link of the ring."""
        work = self.work
        weights = work.weights(self._layers)
        ring = [self.machines.between(card, (card + 1) % cards) for card in range(cards)]
        slowest = min(ring, key=lambda link: link.bandwidth)
        gather = slowest.seconds(weights * (cards - 1) / cards) + slowest.latency * len(self._layers) * (cards - 1)
        working = work.working(self._layers, self._steps, setting.placement)
        resident = weights / cards + 2 * work.weights(range(1, 2)) + working
        ram = work.ram(self._layers, self._steps, setting.placement)
        return self._single("fsdp", cards, gather, resident, ram, setting)

    def _single(self, name: str, cards: int, moving: float, memory: float, ram: float, setting: Setting) -> Option:
        """One evaluation at a time, on all cards alike; `moving`: seconds that the weights need to get there."""
        slowest = min(range(cards), key=lambda card: self.machines.cards[card].flops)
        costs = Costs(
            evaluate=[max(self._evaluation(self._layers, slowest, setting), moving)],
            sink=[max(self._sink(self._layers, slowest), moving)],
            decode=self._decode_seconds(setting, cards),
            decoder_at=None if setting.vae_alone else 0,
        )
        schedule = LayerSchedule((self._layers,), self.work.plan.steps)
        return self._option(name, schedule, costs, [float(memory)] * cards, [float(ram)] * cards, setting)

    def _option(
        self,
        name: str,
        schedule: PipelineSchedule,
        costs: Costs,
        memory: Sequence[float],
        ram: Sequence[float],
        setting: Setting,
    ) -> Option:
        plan = replace(self.work.plan, num_clip=max(2, BLOCKS // self.work.plan.blocks_per_clip))
        result = simulate(schedule, Span.of(plan, 0), costs)
        first, *others = memory
        decoder = self._decoder_bytes()
        on_cards = (*memory, decoder) if setting.vae_alone else (first + decoder, *others)
        return Option(
            executor=name,
            setting=setting,
            memory=on_cards,
            fits=self._fits(on_cards, ram),
            fps=plan.infer_frames / plan.blocks_per_clip / result.seconds_per_block,
            first_block=result.first_block,
        )

    def _fits(self, memory: Sequence[float], ram: Sequence[float]) -> bool:
        of_machine = dict.fromkeys(self.machines.machine_of, 0.0)
        for card, size in enumerate(ram):
            of_machine[self.machines.machine_of[card]] += size
        on_cards = all(size <= card.usable for size, card in zip(memory, self.machines.cards, strict=False))
        return on_cards and max(of_machine.values()) <= self.machines.ram

    def _decoder_bytes(self) -> float:
        return DECODER_PARAMETERS * 2 + decode_bytes(VaeConfig(), self.work.plan, torch.bfloat16)


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
        speed = f"{option.fps:.1f} | {option.first_block:.1f} s" if option.fits else "does not fit | -"
        memory = f"{option.from_ram or '-'} | {max(option.memory) / GIB:.1f} GiB"
        rows.append(f"| {machines.name} | `{option.executor}` | {cards} | {memory} | {speed} |")
    return rows


def documented() -> Iterator[str]:
    """The lines of the table in docs/EXECUTORS.md; of each machine's rows the README has the first."""
    work = Workload(WAN_S2V_14B, ClipPlan(width=688, height=368, keep_aspect=False))
    yield from HEADER
    for machines in PRESETS:
        yield from table(work, machines)


if __name__ == "__main__":
    print(*documented(), sep="\n")
