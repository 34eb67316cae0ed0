"""Layers and caches for the devices of a layer pipeline, from their memory and speed."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from ..dit.placement import Placement
from ..errors import MachineError
from ..pipeline.schedule import blocks_at_a_layer_stage
from .device import Device
from .memory import ANYWHERE, working_bytes
from .partition import LayerCosts, split_layers
from .workload import Workload


@dataclass(frozen=True)
class StagePlan:
    """An executor's name, layers and steps of each of its stages, and where the caches of all of them are."""

    executor: str
    layers: tuple[range, ...]
    steps: tuple[range, ...]
    placement: Placement

    @property
    def blocks(self) -> int:
        """Most that are under way at one stage: only stages of different layers have several."""
        if len(set(self.layers)) == 1:
            return 1
        return blocks_at_a_layer_stage(len(self.layers), len(self.steps[0]))


def plan_layers(
    work: Workload,
    devices: Sequence[Device],
    placements: Sequence[Placement] = tuple(ANYWHERE.places()),
    decodes_first: bool = False,
) -> tuple[tuple[range, ...], Placement]:
    """The split with the fastest slowest stage whose weights and caches fit, and the first placement with which they
    do.

    `decodes_first`: whether the first device also decodes the blocks, for which it gets fewer layers. Raises
    MachineError when nothing fits.
    """
    # As operations of an evaluation that take as long.
    first = devices[0]
    decode_flops = work.decode_flops() * first.speed / first.decoding / work.plan.steps if decodes_first else 0.0

    blocks = blocks_at_a_layer_stage(len(devices), work.plan.steps)

    def split(placement: Placement) -> tuple[tuple[range, ...], Placement]:
        return split_layers(_costs(replace(work, blocks=blocks), placement, decode_flops), devices), placement

    for placement in placements[:-1]:
        with suppress(MachineError):
            return split(placement)
    return split(placements[-1])


def split_by_time(
    work: Workload,
    devices: Sequence[Device],
    placements: Sequence[Placement] = tuple(ANYWHERE.places()),
    decodes_first: bool = False,
) -> tuple[range, ...]:
    """The layers of `plan_layers` as far as they fit; by time alone when nothing fits."""
    try:
        return plan_layers(work, devices, placements, decodes_first)[0]
    except MachineError:
        roomy = [replace(device, memory=None) for device in devices]
        return plan_layers(work, roomy, placements, decodes_first)[0]


def _costs(work: Workload, placement: Placement, decode_flops: float) -> LayerCosts:
    """`decode_flops`: of the decoder on the first device, for each of its evaluations."""
    layers, steps = work.layers, work.steps
    none, one = (work.of_stage(range(count), steps, work.blocks) for count in range(2))
    fixed = working_bytes(none, placement)
    later = working_bytes(replace(one, embeds=False), placement)
    each = later - fixed
    # With more layers it is less: their caches leave other moments behind.
    embedding = working_bytes(one, placement) - later
    weights = [work.layer_weights(layer) for layer in layers]
    return LayerCosts(
        flops=[work.layer_flops(layer) for layer in layers],
        bytes=[size + each for size in weights],
        first_flops=work.part_flops.first + decode_flops,
        last_flops=work.part_flops.last,
        first_bytes=work.weights(layers[:1]) - weights[0] + embedding,
        last_bytes=work.weights(layers[-1:]) - weights[-1],
        stage_bytes=fixed,
    )
