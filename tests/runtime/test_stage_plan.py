"""Layers and caches for devices of different memory."""

import pytest

from liveavatar_runtime.config import WAN_S2V_14B
from liveavatar_runtime.dit.placement import ON_DEVICE, Placement
from liveavatar_runtime.errors import MachineError
from liveavatar_runtime.planning.stages import StageDevice, plan_stages
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.sampling.plan import ClipPlan

GIB = 2**30
WORK = Workload(WAN_S2V_14B, ClipPlan(width=688, height=368, keep_aspect=False))
STEPS = range(WORK.plan.steps)


def sizes(layers: tuple[range, ...]) -> list[int]:
    return [len(part) for part in layers]


def test_without_limits_the_layers_are_split_by_time():
    plan = plan_stages(WORK, [StageDevice()] * 4)
    assert sizes(plan.layers) == [10, 10, 10, 10] and plan.placement == ON_DEVICE


@pytest.mark.parametrize("memory", [[22, 22, 22, 22], [22, 22, 40, 14], [44, 44]])
def test_every_stage_fits(memory):
    plan = plan_stages(WORK, [StageDevice(int(size * GIB)) for size in memory])
    for layers, size in zip(plan.layers, memory, strict=True):
        assert WORK.weights(layers) + WORK.working(layers, STEPS, plan.placement) <= size * GIB


def test_caches_go_to_ram_when_two_cards_cannot_hold_them():
    plan = plan_stages(WORK, [StageDevice(22 * GIB)] * 2)
    assert plan.placement == Placement("ram")
    with pytest.raises(MachineError, match="Add a device"):
        plan_stages(WORK, [StageDevice(22 * GIB)] * 2, kv_cache="device")


def test_the_user_may_choose():
    devices = [StageDevice(80 * GIB)] * 2
    assert plan_stages(WORK, devices, kv_cache="ram", kv_dtype="fp8").placement == Placement("ram", "fp8")
    assert plan_stages(WORK, devices, kv_dtype="fp8").placement == Placement("device", "fp8")


def test_a_faster_card_gets_more_layers():
    few, many = sizes(plan_stages(WORK, [StageDevice(speed=1.0), StageDevice(speed=3.0)]).layers)
    assert many == pytest.approx(3 * few, abs=3)


def test_the_device_that_decodes_gets_fewer_layers():
    first, *others = sizes(plan_stages(WORK, [StageDevice()] * 4, decodes_first=True).layers)
    assert first < min(others) and sum(others) + first == 40


def test_the_weights_of_single_layers_and_the_rest_are_all():
    layers = range(WAN_S2V_14B.num_layers)
    inner = sum(map(WORK.layer_weights, layers))
    ends = WORK.weights(layers[:1]) + WORK.weights(layers[-1:]) - WORK.layer_weights(0) - WORK.layer_weights(39)
    assert inner + ends == WORK.weights(layers) == 2 * 16_295_755_609
