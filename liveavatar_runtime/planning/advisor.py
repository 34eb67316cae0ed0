"""Which executor suits which cards: each is simulated, those that fit are ordered by speed.

    python -m liveavatar_runtime.planning.advisor

prints the table of the documentation. Speeds are predictions from sustained rates (`machines.Card.flops`), which are
assumed unless the card was measured (`calibration`); what can be relied on is the order of the executors and their
memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from ..config import WAN_S2V_14B
from ..devices import FSDP, LAYER_PIPELINE, LOCAL, TIMESTEP_PIPELINE
from ..dit.placement import ON_DEVICE, Placement
from ..duration import FRAMES_PER_BLOCK
from ..errors import MachineError
from ..pipeline.schedule import LayerSchedule, PipelineSchedule, Span, TimestepSchedule, split_steps
from ..sampling.plan import ClipPlan
from ..vae.config import VaeConfig
from .machines import GIB, PRESETS, Machines
from .memory import decode_bytes
from .simulator import Costs, simulate
from .stages import StageDevice, split_by_time
from .workload import DECODER_PARAMETERS, Workload

BLOCKS, CLIP_FRAMES = 40, 48
"""Blocks that are simulated, in clips of so many frames."""
IN_RAM = Placement("ram")


@dataclass(frozen=True)
class Setting:
    """Where the caches are, and who decodes: with `vae_alone` one more card that does nothing else, otherwise the card
    number `decoder` beside its own work, or with None a device that is none of the cards, which costs nothing here."""

    placement: Placement = ON_DEVICE
    vae_alone: bool = False
    decoder: int | None = 0


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
    """Predicts executors for a workload on machines. `decoder_bytes`: the VAE and its work, by default the released
    one's."""

    work: Workload
    machines: Machines
    decoder_bytes: float | None = None

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
        yield self.local(setting)
        if cards == 1:
            return
        yield self._fsdp(cards, setting)
        yield from self.pipelines(setting)

    def pipelines(self, setting: Setting) -> Iterator[Option]:
        """A stage on every card, but that of a decoder alone."""
        cards = len(self.machines.cards) - setting.vae_alone
        steps = split_steps(self.work.plan.steps, cards)
        yield self._pipeline(TIMESTEP_PIPELINE, TimestepSchedule(self._layers.stop, steps), setting)
        if cards <= self._layers.stop:
            layers = self._split(cards, setting)
            yield self._pipeline(LAYER_PIPELINE, LayerSchedule(layers, self.work.plan.steps), setting)

    @property
    def _layers(self) -> range:
        return range(self.work.config.num_layers)

    @property
    def _steps(self) -> range:
        return range(self.work.plan.steps)

    def _split(self, cards: int, setting: Setting) -> tuple[range, ...]:
        """Layers by time, as far as they fit."""
        devices = [
            StageDevice(int(card.usable - self._beside(setting, number)), card.flops)
            for number, card in enumerate(self.machines.cards[:cards])
        ]
        decodes_first, place = setting.decoder == 0 and not setting.vae_alone, setting.placement
        return split_by_time(self.work, devices, place.kv_cache, place.kv_dtype, decodes_first)

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
            decoder_at=self._decoder_at(setting, len(parts)),
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
        if setting.decoder is None:
            return 0.0
        card = self.machines.cards[stages if setting.vae_alone else setting.decoder]
        return self.work.decode_flops() / card.decoding

    def _decoder_at(self, setting: Setting, stages: int) -> int | None:
        """The stage that decodes too; None when a card without a stage does."""
        beside = setting.decoder is not None and setting.decoder < stages and not setting.vae_alone
        return setting.decoder if beside else None

    def _beside(self, setting: Setting, stage: int) -> float:
        """Bytes of the decoder on a stage's card."""
        return self._decoder_bytes() if setting.decoder == stage and not setting.vae_alone else 0.0

    def local(self, setting: Setting) -> Option:
        """The first card alone; weights that do not fit are streamed, all steps of a block in one batch."""
        work, card = self.work, self.machines.cards[0]
        weights = work.weights(self._layers)
        beside = self._beside(setting, 0)
        working = work.working(self._layers, self._steps, setting.placement)
        streams = weights + working + beside > card.usable
        if streams:
            working = work.working(self._layers, self._steps, replace(setting.placement, batched=True))
        window = 2 * work.weights(range(1, 2))
        resident = max(window, min(weights, card.usable - working - beside)) if streams else weights
        # A batch reads the streamed weights once a block, so each step bears its share of the time.
        moving = self.machines.host.seconds(weights - resident + window * streams) / work.plan.steps
        ram = work.ram(self._layers, self._steps, setting.placement) + weights * streams
        option = self._single(LOCAL, 1, moving, resident + working, ram, setting)
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
        return self._single(FSDP, cards, gather, resident, ram, setting)

    def _single(self, name: str, cards: int, moving: float, memory: float, ram: float, setting: Setting) -> Option:
        """One evaluation at a time, on all cards alike; `moving`: seconds that the weights need to get there."""
        slowest = min(range(cards), key=lambda card: self.machines.cards[card].flops)
        costs = Costs(
            evaluate=[max(self._evaluation(self._layers, slowest, setting), moving)],
            sink=[max(self._sink(self._layers, slowest), moving)],
            decode=self._decode_seconds(setting, cards),
            decoder_at=self._decoder_at(setting, cards),
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
        clips = BLOCKS * FRAMES_PER_BLOCK // CLIP_FRAMES
        plan = replace(self.work.plan, num_clip=clips, infer_frames=CLIP_FRAMES, segment_clips=0, segment_index=0)
        result = simulate(schedule, Span.of(plan, 0), costs)
        on_cards = tuple(size + self._beside(setting, stage) for stage, size in enumerate(memory))
        if setting.vae_alone:
            on_cards = (*on_cards, self._decoder_bytes())
        return Option(
            executor=name,
            setting=setting,
            memory=on_cards,
            fits=self._fits(on_cards, ram),
            fps=FRAMES_PER_BLOCK / result.seconds_per_block,
            first_block=result.first_block,
        )

    def _fits(self, memory: Sequence[float], ram: Sequence[float]) -> bool:
        of_machine = dict.fromkeys(self.machines.machine_of, 0.0)
        for card, size in enumerate(ram):
            of_machine[self.machines.machine_of[card]] += size
        on_cards = all(size <= card.usable for size, card in zip(memory, self.machines.cards, strict=False))
        return on_cards and max(of_machine.values()) <= self.machines.ram

    def _decoder_bytes(self) -> float:
        if self.decoder_bytes is not None:
            return self.decoder_bytes
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


def rates(machines: Sequence[Machines] = PRESETS) -> str:
    """The rate of each card, and whether it is measured or predicted: one line, which docs/EXECUTORS.md has too."""
    cards = {card.name: card for one in machines for card in one.cards}
    told = [f"{card.name} {card.flops / 1e12:.0f} TFLOP/s ({card.source})" for card in cards.values()]
    return f"Sustained rates: {', '.join(told)}."


if __name__ == "__main__":
    print(*documented(), "", rates(), sep="\n")
