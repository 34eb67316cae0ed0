"""Layers and caches for devices of different memory."""

import pytest

from liveavatar_runtime.config import WAN_S2V_14B
from liveavatar_runtime.dit.placement import ON_DEVICE, Placement
from liveavatar_runtime.errors import MachineError
from liveavatar_runtime.planning.device import Device
from liveavatar_runtime.planning.memory import CacheChoice, working_bytes
from liveavatar_runtime.planning.stages import plan_layers
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.sampling.plan import ClipPlan

GIB = 2**30
WORK = Workload(WAN_S2V_14B, ClipPlan(width=688, height=368, keep_aspect=False))
STEPS = range(WORK.plan.steps)


def card(gib: float | None = None, speed: float = 1.0) -> Device:
    """All of its memory is for sampling."""
    return Device(memory=None if gib is None else int(gib * GIB), flops=speed, reserve=0)


def sizes(layers: tuple[range, ...]) -> list[int]:
    return [len(part) for part in layers]


def test_without_limits_the_layers_are_split_by_time():
    layers, placement = plan_layers(WORK, [card()] * 4)
    assert sizes(layers) == [10, 10, 10, 10] and placement == ON_DEVICE


@pytest.mark.parametrize("memory", [[22, 22, 22, 22], [22, 22, 40, 14], [44, 44]])
def test_every_stage_fits(memory):
    split, placement = plan_layers(WORK, [card(size) for size in memory])
    for layers, size in zip(split, memory, strict=True):
        assert WORK.weights(layers) + working_bytes(WORK.of_stage(layers, STEPS), placement) <= size * GIB


def test_caches_go_to_ram_when_two_cards_cannot_hold_them():
    assert plan_layers(WORK, [card(22)] * 2)[1] == Placement("ram")
    with pytest.raises(MachineError, match="Add a device"):
        plan_layers(WORK, [card(22)] * 2, CacheChoice("device").places())


def test_the_user_may_choose():
    devices = [card(80)] * 2
    assert plan_layers(WORK, devices, CacheChoice("ram", "fp8").places())[1] == Placement("ram", "fp8")
    assert plan_layers(WORK, devices, CacheChoice(kv_dtype="fp8").places())[1] == Placement("device", "fp8")


def test_a_faster_card_gets_more_layers():
    few, many = sizes(plan_layers(WORK, [card(speed=1.0), card(speed=3.0)])[0])
    assert many == pytest.approx(3 * few, abs=3)


def test_the_device_that_decodes_gets_fewer_layers():
    first, *others = sizes(plan_layers(WORK, [card()] * 4, decodes_first=True)[0])
    assert first < min(others) and sum(others) + first == 40


def test_the_weights_of_single_layers_and_the_rest_are_all():
    layers = range(WAN_S2V_14B.num_layers)
    inner = sum(map(WORK.layer_weights, layers))
    ends = WORK.weights(layers[:1]) + WORK.weights(layers[-1:]) - WORK.layer_weights(0) - WORK.layer_weights(39)
    assert inner + ends == WORK.weights(layers) == 2 * 16_295_755_609
