"""What a video of a size takes on given devices, told before anything is loaded."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from ..devices import AUTO
from ..dit.placement import Placement
from ..errors import MachineError
from ..planning.forecast import Forecast, Option, Setting
from ..planning.machines import Machines
from ..planning.memory import CacheChoice, held_in_ram, ram_bytes, working_bytes
from ..planning.memory_rows import Rows, taken
from ..planning.observed import NONE_OBSERVED, ObservedSpeeds, SpeedKey
from ..planning.ranges import Range, Source
from ..planning.stages import StagePlan
from ..planning.workload import Workload
from .choice import choose_executor
from .pipelines import caches_for
from .table import TABLE, here, runs_here

MOST_CORRECTED = 4.0
"""A run that was further off than this did something else: waited, or shared its card."""
CORRECTED_ERROR = 0.2
"""Of a prediction that was corrected by a run of another size."""


@dataclass(frozen=True, kw_only=True)
class SizeCost:
    """`memory`: bytes on each device that works, weights and the VAE's work included; `ram`: of caches and streamed
    weights in system memory; `devices`, `in_ram`: both row by row; `streams`: whether weights come from
    there; `fps`: frames a second; `first_block`: seconds until it can be seen; `source`: where both come from
    ("unknown": they only compare sizes). Where it does not fit there are no speeds and no rows, and `memory` is the
    least that a device would need beside the weights."""

    memory: tuple[float, ...]
    ram: float
    streams: bool
    fits: bool
    fps: Range | None = None
    first_block: Range | None = None
    source: Source = "unknown"
    devices: tuple[Rows, ...] = ()
    in_ram: Rows = ()


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What samples: devices with the VAE's work on one of them (`decoder_bytes`), the executor's name or "auto", and
    what is wanted of the caches. `cards`: the devices' short names, by which `observed` knows them; neither decides
    what is sampled how, only what is said of its speed."""

    machines: Machines
    decoder_bytes: float
    executor: str
    caches: CacheChoice
    cards: tuple[str, ...] = ()
    observed: ObservedSpeeds = NONE_OBSERVED


@dataclass(frozen=True)
class Planned:
    """What a run would do: its executor with what each device holds, and what is forecast of it."""

    stages: StagePlan
    option: Option


def planned_stages(work: Workload, setup: Setup) -> StagePlan | None:
    """As the run would plan it: the same executor with the same place for its caches; None when nothing fits."""
    machines, caches = setup.machines, setup.caches
    name = setup.executor
    if name == AUTO:
        name = choose_executor(work, machines, setup.decoder_bytes, caches).executor
    if not runs_here(name):
        return _in_groups(name, work, setup)
    with suppress(MachineError):
        return here(name).plan(work, machines, caches)
    return None


def planned(work: Workload, setup: Setup, stages: StagePlan) -> Planned:
    """With what is forecast of stages."""
    (option,) = _options(stages.executor, work, setup, stages.placement)
    return Planned(stages, option)


def ram_of(work: Workload, stages: StagePlan) -> int:
    """Bytes of caches in system memory."""
    works = [work.of_stage(*part) for part in zip(stages.layers, stages.steps, strict=True)]
    return sum(ram_bytes(own, stages.placement) for own in works)


def size_cost(work: Workload, setup: Setup) -> SizeCost:
    """Of what is planned."""
    stages = planned_stages(work, setup)
    if stages is None:
        return least_cost(work, setup)
    return corrected(cost_of(work, planned(work, setup, stages)), work, setup, stages)


def cost_of(work: Workload, found: Planned) -> SizeCost:
    """Of what was planned."""
    option = found.option
    return SizeCost(
        memory=option.memory,
        ram=taken(option.ram),
        streams=option.streams,
        fits=True,
        fps=option.fps,
        first_block=option.first_block,
        source=option.source,
        devices=option.devices,
        in_ram=option.ram,
    )


def corrected(cost: SizeCost, work: Workload, setup: Setup, stages: StagePlan) -> SizeCost:
    """With what runs on this machine took: a run of the same kind is the prediction. Else the nearest video by the same
    means tells how far predictions are off here: by that ratio, within `MOST_CORRECTED`, this one is changed."""
    key = SpeedKey.of(work, setup.cards[: len(cost.memory)], stages.executor, stages.placement)
    same = setup.observed.find(key)
    if same is not None:
        return replace(cost, fps=same.fps, first_block=same.first_block, source="observed")
    if cost.fps is None or cost.first_block is None:
        return cost
    for record in setup.observed.kin(key)[:1]:
        plan = replace(work.plan, steps=record.key.steps, window_blocks=record.key.window_blocks)
        before = size_cost(
            at_size(replace(work, plan=plan), record.key.width, record.key.height),
            replace(setup, observed=NONE_OBSERVED),
        )
        if before.fps is not None:
            ratio = min(MOST_CORRECTED, max(1 / MOST_CORRECTED, record.fps.likely / before.fps.likely))
            fps = Range.around(cost.fps.likely * ratio, CORRECTED_ERROR)
            first = Range.around(cost.first_block.likely / ratio, CORRECTED_ERROR)
            return replace(cost, fps=fps, first_block=first, source="observed")
    return cost


def _options(name: str, work: Workload, setup: Setup, placement: Placement) -> Iterator[Option]:
    yield from TABLE[name].forecast(Forecast(work, setup.machines, setup.decoder_bytes, Setting(placement)))


def _in_groups(name: str, work: Workload, setup: Setup) -> StagePlan | None:
    """Of an executor that only groups of worker processes run: every rank has the same placement."""
    for placement in caches_for(setup.machines, setup.caches).places():
        for option in _options(name, work, setup, placement):
            if option.fits:
                ranks = len(setup.machines.devices)
                return StagePlan(name, (work.layers,) * ranks, (work.steps,) * ranks, placement)
    return None


def least_cost(work: Workload, setup: Setup) -> SizeCost:
    """Of what does not fit."""

    def on_device(placement: Placement) -> float:
        return working_bytes(work, placement)

    placement = min(setup.caches.candidates(), key=on_device)
    memory = on_device(placement) + setup.decoder_bytes * (setup.machines.decoder is not None)
    ram = held_in_ram(work, setup.machines.devices[0].room, placement)
    return SizeCost(memory=(memory,), ram=ram, streams=False, fits=False)


def at_size(work: Workload, width: int, height: int) -> Workload:
    """The same work for a video of exactly that size."""
    return replace(work, plan=replace(work.plan, width=width, height=height, keep_aspect=False))
