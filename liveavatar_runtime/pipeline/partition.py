"""Which layers go to which device: consecutive ranges with the least time at the slowest stage."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

from ..errors import InputError, MachineError


@dataclass(frozen=True, kw_only=True)
class LayerCosts:
    """What each layer costs: `seconds` (any unit of time), `bytes` of weights and caches. `first_*` and `last_*` are
    the costs of what stands before the first layer (embeddings, text, time, voice) and after the last one (head)."""

    seconds: Sequence[float]
    bytes: Sequence[int]
    first_seconds: float = 0.0
    last_seconds: float = 0.0
    first_bytes: int = 0
    last_bytes: int = 0


@dataclass(frozen=True)
class Capacity:
    """A device: its `speed` relative to the others, and the bytes that layers may take (None: enough)."""

    speed: float = 1.0
    bytes: int | None = None


def split_evenly(layers: int, stages: int) -> tuple[range, ...]:
    """The split of equal layers over equal devices. Raises InputError with more stages than layers."""
    return split_layers(LayerCosts(seconds=[1.0] * layers, bytes=[0] * layers), [Capacity()] * stages)


def split_layers(costs: LayerCosts, devices: Sequence[Capacity]) -> tuple[range, ...]:
    """Consecutive layers for each device, at least one: the slowest stage as fast as can be, and within that the others
    as equal as can be.

    Raises InputError when there are more devices than layers, MachineError when the layers do not fit.
    """
    layers, stages = len(costs.seconds), len(devices)
    if not 1 <= stages <= layers:
        raise InputError(f"{stages} devices for {layers} layers; give 1 to {layers} devices")
    seconds, sizes = [0.0, *accumulate(costs.seconds)], [0, *accumulate(costs.bytes)]

    def stage_seconds(number: int, start: int, stop: int) -> float:
        extra = costs.first_seconds * (start == 0) + costs.last_seconds * (stop == layers)
        return (seconds[stop] - seconds[start] + extra) / devices[number].speed

    def fits(number: int, start: int, stop: int) -> bool:
        limit = devices[number].bytes
        extra = costs.first_bytes * (start == 0) + costs.last_bytes * (stop == layers)
        return limit is None or sizes[stop] - sizes[start] + extra <= limit

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


def _does_not_fit(costs: LayerCosts, devices: Sequence[Capacity]) -> str:
    needed = sum(costs.bytes) + costs.first_bytes + costs.last_bytes
    room = sum(device.bytes or 0 for device in devices)
    return (
        f"the layers with their caches need {needed / 2**30:.1f} GiB, the {len(devices)} devices have "
        f"{room / 2**30:.1f} GiB for them. Add a device, or make the video smaller or with fewer steps."
    )
