"""Which layers go to which device: consecutive ranges with the least time at the slowest stage."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

from ..errors import InputError, MachineError
from ..texts import gib
from .device import Device


@dataclass(frozen=True, kw_only=True)
class LayerCosts:
    """What each layer costs: `flops`, operations of an evaluation, and `bytes` of weights and caches. `first_*` and
    `last_*` are the costs of what stands before the first layer (embeddings, text, time, voice) and after the last one
    (head); `stage_bytes`: what every stage needs however few layers it has."""

    flops: Sequence[float]
    bytes: Sequence[int]
    first_flops: float = 0.0
    last_flops: float = 0.0
    first_bytes: int = 0
    last_bytes: int = 0
    stage_bytes: int = 0

    def room_on(self, device: Device) -> float:
        """Bytes that the layers of a stage may take."""
        return max(0, device.room - self.stage_bytes)


def split_evenly(layers: int, stages: int) -> tuple[range, ...]:
    """The split of equal layers over equal devices. Raises InputError with more stages than layers."""
    return split_layers(LayerCosts(flops=[1.0] * layers, bytes=[0] * layers), [Device()] * stages)


def split_layers(costs: LayerCosts, devices: Sequence[Device]) -> tuple[range, ...]:
    """Consecutive layers for each device, at least one: the slowest stage as fast as can be, and within that the others
    as equal as can be.

    Raises InputError when there are more devices than layers, MachineError when the layers do not fit.
    """
    layers, stages = len(costs.flops), len(devices)
    if not 1 <= stages <= layers:
        raise InputError(f"{stages} devices for {layers} layers; give 1 to {layers} devices")
    flops, sizes = [0.0, *accumulate(costs.flops)], [0, *accumulate(costs.bytes)]
    speeds, rooms = [device.speed for device in devices], [costs.room_on(device) for device in devices]

    def stage_seconds(number: int, start: int, stop: int) -> float:
        extra = costs.first_flops * (start == 0) + costs.last_flops * (stop == layers)
        return (flops[stop] - flops[start] + extra) / speeds[number]

    def fits(number: int, start: int, stop: int) -> bool:
        extra = costs.first_bytes * (start == 0) + costs.last_bytes * (stop == layers)
        return sizes[stop] - sizes[start] + extra <= rooms[number]

    @cache
    def best(number: int, start: int) -> tuple[float, float, tuple[int, ...]] | None:
        """(slowest stage, sum of squares, ends) of the stages from `number` on with the layers from `start` on."""
        remaining = stages - number - 1
        found = None
        for stop in range(start + 1, layers - remaining + 1) if remaining else (layers,):
            if not fits(number, start, stop):
                continue
            rest = best(number + 1, stop) if remaining else (0.0, 0.0, ())
            if rest is None:
                continue
            own = stage_seconds(number, start, stop)
            candidate = (max(own, rest[0]), own**2 + rest[1], (stop, *rest[2]))
            found = candidate if found is None else min(found, candidate)
        return found

    split = best(0, 0)
    if split is None:
        raise MachineError(_does_not_fit(costs, devices))
    bounds = (0, *split[2])
    return tuple(range(a, b) for a, b in zip(bounds, bounds[1:], strict=False))


def _does_not_fit(costs: LayerCosts, devices: Sequence[Device]) -> str:
    needed = sum(costs.bytes) + costs.first_bytes + costs.last_bytes
    room = sum(room for room in map(costs.room_on, devices) if math.isfinite(room))
    return (
        f"the layers with their caches need {gib(needed)}, the {len(devices)} devices have "
        f"{gib(room)} for them. Add a device, or make the video smaller or with fewer steps."
    )
