"""Layers to devices: the best split, found against all splits."""

import itertools
import random

import pytest

from liveavatar_runtime.errors import InputError, MachineError
from liveavatar_runtime.planning.device import Device
from liveavatar_runtime.planning.partition import LayerCosts, split_evenly, split_layers


def device(speed: float = 1.0, memory: int | None = None) -> Device:
    """All of its memory is for layers."""
    return Device(flops=speed, memory=memory, reserve=0)


def sizes(parts: tuple[range, ...]) -> list[int]:
    return [len(part) for part in parts]


@pytest.mark.parametrize(("layers", "stages"), [(40, 1), (40, 2), (40, 3), (40, 4), (40, 8), (5, 5)])
def test_equal_layers_are_split_evenly(layers, stages):
    parts = split_evenly(layers, stages)
    assert [layer for part in parts for layer in part] == list(range(layers))
    assert max(sizes(parts)) - min(sizes(parts)) <= 1


@pytest.mark.parametrize("seed", range(20))
def test_the_slowest_stage_is_as_fast_as_can_be(seed):
    draw = random.Random(seed)
    layers, stages = draw.randint(3, 9), draw.randint(1, 3)
    costs = LayerCosts(
        flops=[draw.uniform(1, 3) for _ in range(layers)],
        bytes=[draw.randint(1, 3) for _ in range(layers)],
        first_flops=draw.uniform(0, 4),
        last_flops=draw.uniform(0, 4),
        first_bytes=2,
    )
    devices = [device(draw.uniform(1, 3), draw.choice([None, layers])) for _ in range(stages)]

    def slowest(parts: tuple[range, ...]) -> float:
        times, used = [], []
        for part, place in zip(parts, devices, strict=True):
            extra = costs.first_flops * (0 in part) + costs.last_flops * (layers - 1 in part)
            times.append((sum(costs.flops[n] for n in part) + extra) / place.speed)
            used.append(sum(costs.bytes[n] for n in part) + costs.first_bytes * (0 in part))
        fits = all(u <= d.room for d, u in zip(devices, used, strict=True))
        return max(times) if fits else float("inf")

    bounds = ((0, *cut, layers) for cut in itertools.combinations(range(1, layers), stages - 1))
    everything = [tuple(range(a, b) for a, b in itertools.pairwise(ends)) for ends in bounds]
    best = min(map(slowest, everything))
    if best == float("inf"):
        with pytest.raises(MachineError):
            split_layers(costs, devices)
    else:
        assert slowest(split_layers(costs, devices)) == pytest.approx(best)


def test_a_small_card_gets_what_fits():
    costs = LayerCosts(flops=[1.0] * 8, bytes=[10] * 8, first_bytes=5)
    assert sizes(split_layers(costs, [device(memory=30), device(memory=100)])) == [2, 6]


def test_a_fast_card_gets_more():
    costs = LayerCosts(flops=[1.0] * 9, bytes=[0] * 9)
    assert sizes(split_layers(costs, [device(2.0), device()])) == [6, 3]


def test_what_does_not_fit_says_how_much_is_missing():
    costs = LayerCosts(flops=[1.0] * 4, bytes=[2**30] * 4)
    with pytest.raises(MachineError, match=r"need 4\.0 GiB, the 2 devices have 3\.0 GiB"):
        split_layers(costs, [device(memory=2**30), device(memory=2**31)])


def test_more_devices_than_layers_are_refused():
    with pytest.raises(InputError, match="give 1 to 3 devices"):
        split_evenly(3, 4)
