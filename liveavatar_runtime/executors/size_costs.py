"""What a video of a size takes on given devices, told before anything is loaded."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from ..devices import AUTO
from ..dit.placement import Placement
from ..errors import MachineError
from ..planning.forecast import Forecast, Option, Setting
from ..planning.machines import Machines
from ..planning.memory import CacheChoice, ram_bytes, working_bytes
from ..planning.workload import Workload
from .choice import choose_executor
from .table import TABLE, here


@dataclass(frozen=True, kw_only=True)
class SizeCost:
    """`memory`: bytes on each device that works, weights and the VAE's work included; `ram`: of caches in system
    memory; `streams`: whether weights come from there; `fps`: frames a second at the devices' rates, 0 where nothing
    fits. Where it does not fit, `memory` is the least that a device would need beside the weights."""

    memory: tuple[float, ...]
    ram: float
    streams: bool
    fps: float
    fits: bool


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What samples: devices with the VAE's work on one of them (`decoder_bytes`), the executor's name or "auto", and
    what is wanted of the caches."""

    machines: Machines
    decoder_bytes: float
    executor: str
    caches: CacheChoice


def size_cost(work: Workload, setup: Setup) -> SizeCost:
    """As the run would plan it: the same executor with the same place for its caches."""
    machines, caches = setup.machines, setup.caches
    name = setup.executor
    if name == AUTO:
        name = choose_executor(work, machines, setup.decoder_bytes, caches).executor
    with suppress(MachineError):
        stages = here(name).plan(work, machines, caches)
        forecast = Forecast(work, machines, setup.decoder_bytes, Setting(stages.placement))
        works = [work.of_stage(*part) for part in zip(stages.layers, stages.steps, strict=True)]
        ram = sum(ram_bytes(own, stages.placement) for own in works)
        for option in _options(name, forecast):
            return SizeCost(memory=option.memory, ram=ram, streams=option.streams, fps=option.fps, fits=True)
    return _least(work, setup)


def _options(name: str, forecast: Forecast) -> Iterator[Option]:
    yield from TABLE[name].forecast(forecast)


def _least(work: Workload, setup: Setup) -> SizeCost:
    """Of what does not fit."""

    def on_device(placement: Placement) -> float:
        return working_bytes(work, placement)

    placement = min(setup.caches.candidates(), key=on_device)
    memory = on_device(placement) + setup.decoder_bytes * (setup.machines.decoder is not None)
    return SizeCost(memory=(memory,), ram=ram_bytes(work, placement), streams=False, fps=0.0, fits=False)


def at_size(work: Workload, width: int, height: int) -> Workload:
    """The same work for a video of exactly that size."""
    return replace(work, plan=replace(work.plan, width=width, height=height, keep_aspect=False))
