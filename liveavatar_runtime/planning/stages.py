"""Layers and caches for the devices of a layer pipeline, from their memory and speed."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..devices import LAYER_PIPELINE
from ..dit.placement import Placement
from ..errors import MachineError
from ..pipeline.partition import Capacity, LayerCosts, split_layers
from .memory import KVCacheChoice, KVTypeChoice, placements_of
from .workload import Workload


@dataclass(frozen=True)
class StageDevice:
    """What a stage may use: bytes of memory (None: enough), and its speed relative to the others."""

    memory: int | None = None
    speed: float = 1.0


@dataclass(frozen=True)
class StagePlan:
    """The pipeline's name, layers of each stage, and where the caches of all of them are."""

    executor: str
    layers: tuple[range, ...]
    placement: Placement


def plan_stages(
    work: Workload,
    devices: Sequence[StageDevice],
    kv_cache: KVCacheChoice = "auto",
    kv_dtype: KVTypeChoice = "auto",
    decodes_first: bool = False,
) -> StagePlan:
    """The split with the fastest slowest stage whose weights and caches fit; caches in RAM only if they must be.

    `decodes_first`: whether the first device also decodes the blocks, for which it gets fewer layers. Raises
    MachineError when nothing fits.
    """
    beside = work.decode_flops() / work.plan.steps if decodes_first else 0.0
    placements = placements_of(kv_cache, kv_dtype)
    for placement in placements:
        capacities = [_capacity(work, device, placement) for device in devices]
        try:
            return StagePlan(LAYER_PIPELINE, split_layers(_costs(work, placement, beside), capacities), placement)
        except MachineError:
            if placement == placements[-1]:
                raise
    raise AssertionError("unreachable: there is always a last placement")


def split_by_time(
    work: Workload,
    devices: Sequence[StageDevice],
    kv_cache: KVCacheChoice = "auto",
    kv_dtype: KVTypeChoice = "auto",
    decodes_first: bool = False,
) -> tuple[range, ...]:
    """The layers of `plan_stages` as far as they fit; by time alone when nothing fits."""
    try:
        return plan_stages(work, devices, kv_cache, kv_dtype, decodes_first).layers
    except MachineError:
        roomy = [StageDevice(None, device.speed) for device in devices]
        return plan_stages(work, roomy, kv_cache, kv_dtype, decodes_first).layers


def _capacity(work: Workload, device: StageDevice, placement: Placement) -> Capacity:
    """Room for layers: without what every stage needs however few layers it has."""
    if device.memory is None:
        return Capacity(device.speed)
    steps = range(work.plan.steps)
    fixed = work.working(range(0), steps, placement)
    return Capacity(device.speed, max(0, device.memory - fixed))


def _costs(work: Workload, placement: Placement, beside: float) -> LayerCosts:
    layers, steps = range(work.config.num_layers), range(work.plan.steps)
    working = work.working(range(1), steps, placement) - work.working(range(0), steps, placement)
    inner = [work.layer_weights(layer) for layer in layers]
    return LayerCosts(
        seconds=[work.layer_flops(layer) for layer in layers],
        bytes=[weights + working for weights in inner],
        first_seconds=work.costs.first + beside,
        last_seconds=work.costs.last,
        first_bytes=work.weights(layers[:1]) - inner[0],
        last_bytes=work.weights(layers[-1:]) - inner[-1],
    )
