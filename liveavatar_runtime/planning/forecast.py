"""How much memory and time ways of sampling take on given devices: what the executors' rows forecast with.

Speeds are predictions from sustained rates (`Device.flops`), which are assumed unless the device was measured; what can
be relied on is the order of the executors and their memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..dit.placement import ON_DEVICE, Placement
from ..duration import FRAMES_PER_BLOCK
from ..pipeline.schedule import LayerSchedule, PipelineSchedule, Span
from .machines import Machines
from .memory import cache_traffic, ram_bytes, working_rows
from .memory_rows import Rows, rows_of, taken, together
from .ranges import Range, Source, worst
from .simulator import Costs, simulate
from .stages import split_by_time
from .workload import MOVED_TODAY, Workload

LINK_ERROR = 0.5
"""Of what a link brings: cards in slots of eight lanes, host memory that is not pinned, other traffic."""
PRIMING, STARTING = 7 / 3, 0.1
"""Before the first block the decoder gets 7 latent frames, a block being 3; and kernels are chosen and loaded."""
BLOCKS, CLIP_FRAMES = 40, 48
"""Blocks that are simulated, in clips of so many frames."""


@dataclass(frozen=True)
class Setting:
    """Where the caches are, and who decodes: with `vae_alone` one more device that does nothing else, otherwise
    `Machines.decoder` beside its own work, or with None there one that is none of these, which costs nothing here."""

    placement: Placement = ON_DEVICE
    vae_alone: bool = False


@dataclass(frozen=True, kw_only=True)
class Option:
    """One way to use the devices. `devices`: what is taken of each one that is used, that of the decoder last where it
    has its own; `ram`: what is taken of the system's memory, of that of all machines together; `fps`: frames a second;
    `first_block`: seconds until it can be seen; `source`: where both come from; `streams`: whether weights come from
    RAM, or from their file."""

    executor: str
    setting: Setting
    devices: tuple[Rows, ...]
    ram: Rows
    fits: bool
    fps: Range
    first_block: Range
    source: Source = "unknown"
    streams: bool = False

    def bound_by_links(self) -> "Option":
        """With the error of links where that is larger than the cards'."""
        fps, first = (
            Range(
                min(known.low, known.likely / (1 + LINK_ERROR)),
                known.likely,
                max(known.high, known.likely * (1 + LINK_ERROR)),
            )
            for known in (self.fps, self.first_block)
        )
        source: Source = worst([self.source, "assumed"])
        return replace(self, fps=fps, first_block=first, source=source)

    @property
    def memory(self) -> tuple[float, ...]:
        """Bytes on each device that is used."""
        return tuple(map(taken, self.devices))

    @property
    def stages(self) -> int:
        """Devices without that of the decoder."""
        return len(self.devices) - self.setting.vae_alone

    @property
    def from_ram(self) -> str:
        """What is kept in system memory, for people."""
        parts = ["weights"] * self.streams + ["caches"] * (self.setting.placement.kv_cache == "ram")
        return " and ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Load:
    """What sampling takes of each device that is used, and of system memory beside each."""

    devices: Sequence[Rows]
    ram: Sequence[Rows]


@dataclass(frozen=True)
class Forecast:
    """A workload on machines, with the VAE and its work, `decoder_bytes`, where the setting has it (and `machines`, so
    that it is no room for sampling)."""

    work: Workload
    machines: Machines
    decoder_bytes: float
    setting: Setting

    @property
    def cards(self) -> int:
        """Devices that sample."""
        return len(self.machines.devices) - self.setting.vae_alone

    def split(self) -> tuple[range, ...]:
        """Layers by time, as far as they fit."""
        return split_by_time(
            self.work,
            self.machines.devices[: self.cards],
            [self.setting.placement],
            self.machines.decoder == 0,
        )

    def pipeline(self, executor: str, schedule: PipelineSchedule) -> Option:
        """Stages with the parts of a schedule, one on each of the first devices."""
        return self._up_to_today(lambda forecast: forecast._pipeline(executor, schedule))

    def single(self, executor: str, load: Load, moving: float) -> Option:
        """One evaluation at a time, on all devices of the load alike; `moving`: seconds that the weights need to get
        there."""
        return self._up_to_today(lambda forecast: forecast._single(executor, load, moving))

    def _up_to_today(self, made: "Callable[[Forecast], Option]") -> Option:
        """With what the forms may bring that no card was measured with (`MOVED_TODAY`)."""
        option = made(self)
        if self.work.measured_flops is not None or any(device.rates is None for device in self.machines.devices):
            return option
        devices = tuple(device.moving(MOVED_TODAY) for device in self.machines.devices)
        today = made(replace(self, machines=replace(self.machines, devices=devices)))
        fps, first = option.fps, option.first_block
        return replace(
            option,
            fps=Range(fps.low, fps.likely, max(fps.high, today.fps.high)),
            first_block=Range(min(first.low, today.first_block.low), first.likely, first.high),
        )

    def _pipeline(self, executor: str, schedule: PipelineSchedule) -> Option:
        work, parts, placement = self.work, schedule.parts, self.setting.placement
        stages = range(len(parts))
        costs = Costs(
            evaluate=[self._evaluation(part.layers, stage) for stage, part in enumerate(parts)],
            sink=[self._sink(part.layers, stage) for stage, part in enumerate(parts)],
            links={(a, b): self.machines.between(a, b) for a in stages for b in stages if a != b},
            hidden_bytes=work.hidden_bytes(),
            latents_bytes=work.latents_bytes(),
            sink_bytes=work.hidden_bytes(),
            decode=self._decode_seconds(len(parts)),
            decoder_at=self._decoder_at(len(parts)),
        )
        works = [work.of_stage(part.layers, part.steps, schedule.blocks_at_a_stage) for part in parts]
        weights = [work.weights(part.layers) for part in parts]
        load = Load(
            devices=[
                together(rows_of([("weights", size)]), working_rows(own, placement))
                for size, own in zip(weights, works, strict=True)
            ],
            ram=[caches_in_ram(own, placement) for own in works],
        )
        return self._option(executor, schedule, costs, load)

    def _single(self, executor: str, load: Load, moving: float) -> Option:
        cards, layers = len(load.devices), self.work.layers
        slowest = min(range(cards), key=lambda card: self.machines.devices[card].speed)
        computing = self._evaluation(layers, slowest)
        costs = Costs(
            evaluate=[max(computing, moving)],
            sink=[max(self._sink(layers, slowest), moving)],
            decode=self._decode_seconds(cards),
            decoder_at=self._decoder_at(cards),
        )
        # How fast links are is assumed, whatever is known of the cards.
        option = self._option(executor, LayerSchedule((layers,), self.work.plan.steps), costs, load)
        return option if moving <= computing else option.bound_by_links()

    def _evaluation(self, layers: range, card: int) -> float:
        """Seconds of one evaluation by some layers; caches in RAM are fetched meanwhile."""
        fetched = max(cache_traffic(self.work.of_stage(layers, range(1)), self.setting.placement))
        fetching = self.machines.interconnect.host.seconds(fetched)
        return max(self._computing(layers, card), fetching)

    def _computing(self, layers: range, card: int) -> float:
        device, work = self.machines.devices[card], self.work
        if device.rates is None or work.measured_flops is not None:
            return work.evaluation_flops(layers) / device.speed
        return device.rates.seconds(work.operations(layers)) * device.shared_by

    def _sink(self, layers: range, card: int) -> float:
        return len(layers) * self.work.sink_layer_flops() / self.machines.devices[card].speed

    def _decode_seconds(self, stages: int) -> float:
        number = stages if self.setting.vae_alone else self.machines.decoder
        if number is None:
            return 0.0
        device, work = self.machines.devices[number], self.work
        if device.rates is None:
            return work.decode_flops() / device.decoding
        return device.rates.decode_seconds(work.decode_flops(), work.decode_moved()) * device.shared_by

    def _decoder_at(self, stages: int) -> int | None:
        """The stage that decodes too; None when a device without a stage does."""
        beside = self.machines.decoder
        return beside if beside is not None and beside < stages else None

    def _option(self, executor: str, schedule: PipelineSchedule, costs: Costs, load: Load) -> Option:
        clips = BLOCKS * FRAMES_PER_BLOCK // CLIP_FRAMES
        plan = replace(self.work.plan, num_clip=clips, infer_frames=CLIP_FRAMES, segment_clips=0, segment_index=0)
        result = simulate(schedule, Span.of(plan, 0), costs)
        beside = self._decoder_at(len(load.devices))
        used = self.machines.devices[: len(load.devices) + self.setting.vae_alone]
        error = max(device.error for device in used)
        vae = rows_of([("VAE", self.decoder_bytes)])
        devices = [together(rows, vae) if number == beside else rows for number, rows in enumerate(load.devices)]
        return Option(
            executor=executor,
            setting=self.setting,
            devices=(*devices, vae) if self.setting.vae_alone else tuple(devices),
            ram=together(*load.ram),
            fits=self._fits(load),
            fps=Range.around(FRAMES_PER_BLOCK / result.seconds_per_block, error),
            first_block=Range.around(result.first_block + PRIMING * costs.decode, error + STARTING),
            source=worst(device.source for device in used),
        )

    def _fits(self, load: Load) -> bool:
        devices, of_machine = self.machines.devices, dict.fromkeys(self.machines.machine_of, 0.0)
        for card, rows in enumerate(load.ram):
            of_machine[self.machines.machine_of[card]] += taken(rows)
        sizes = [*map(taken, load.devices), *[self.decoder_bytes] * self.setting.vae_alone]
        on_devices = all(size <= device.room for size, device in zip(sizes, devices, strict=False))
        in_ram = zip(self.machines.machine_of, devices, strict=True)
        return on_devices and all(of_machine[machine] <= device.ram for machine, device in in_ram)


def caches_in_ram(work: Workload, placement: Placement) -> Rows:
    return rows_of([("KV caches", ram_bytes(work, placement))])
