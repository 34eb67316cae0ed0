"""What the parts of a model take, measured on this processor, and what a layer pipeline makes of it."""

import gc
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tiny_avatar import CONFIG, PLAN
from torch._C._distributed_c10d import HashStore
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from liveavatar_runtime.config import WAN_S2V_14B, AvatarConfig
from liveavatar_runtime.planning.device import Device
from liveavatar_runtime.planning.measured import (
    GRAIN,
    Measurements,
    Timed,
    decides_split,
    measured_on,
    rounded,
    seconds_on,
    stages_beside,
    with_measured,
)
from liveavatar_runtime.planning.sample_model import _Sample, costs_of, measure_parts, sample_bytes, sample_of
from liveavatar_runtime.planning.stages import plan_layers
from liveavatar_runtime.planning.workload import PartCosts, Workload
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_workers.rank.rank_layers import RankFacts, agree_on_layers, facts_of, layers_of
from liveavatar_workers.rank.ranks import Rank, StallDetector

CPU = torch.device("cpu")
TINY = Workload(CONFIG, PLAN, torch.float32, 4)
BUSY = AvatarConfig(
    dim=256, ffn_dim=1024, num_heads=2, num_layers=8, audio_inject_layers=(0, 4), audio_dim=16, text_dim=32, text_len=16
)
"""Large enough for products to take most of the time."""
LARGE = Workload(WAN_S2V_14B, ClipPlan(width=688, height=368, keep_aspect=False))
CARD = PartCosts(layer=0.03, voice=0.003, first=0.001, last=0.001)
"""A plausible one."""


def slower(times: float, card: PartCosts = CARD) -> PartCosts:
    return PartCosts(card.layer * times, card.voice * times, card.first * times, card.last * times)


def sizes(work: Workload, seconds: list[PartCosts]) -> list[int]:
    timed = with_measured(work, seconds)
    return [len(part) for part in plan_layers(timed.work, [Device(flops=s) for s in timed.speeds])[0]]


def live_bytes() -> int:
    # Subclasses have no memory of their own: torch.compile leaves some behind whose size is a symbol.
    kinds = (torch.Tensor, torch.nn.Parameter)
    return sum(o.nbytes for o in gc.get_objects() if type(o) in kinds and o.device.type == "cpu")


def operations(call: Callable[[], object]) -> int:
    # Of PyTorch's attention on a processor only the plain one is counted.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.inference_mode():
        call()
    return counter.get_total_flops()


def test_what_is_timed_does_what_the_planner_counts():
    work = Workload(BUSY, replace(PLAN, width=128, height=128), torch.float32, 4)
    counted, config = work.counted_flops, work.config
    done = {name: operations(call) for name, call in _Sample.make(sample_of(work), CPU).parts().items()}
    costs = costs_of(done, work.plan.steps)
    assert costs.layer == pytest.approx(counted.layer, rel=0.05)
    assert costs.voice == pytest.approx(counted.voice, rel=0.05)
    assert costs.last == pytest.approx(counted.last, rel=0.05)
    # The voice's encoder is not counted: it is small.
    assert counted.first <= costs.first < 0.02 * counted.layer
    wider = sample_of(replace(work, config=replace(config, ffn_dim=4 * config.ffn_dim)))
    assert operations(_Sample.make(wider, CPU).parts()["plain"]) > 1.3 * done["plain"]


def test_a_model_without_a_voice_is_measured_too():
    silent = replace(TINY, config=replace(CONFIG, audio_inject_layers=()))
    assert sample_of(silent).config.audio_inject_layers == ()
    assert measure_parts(silent, CPU).layer > 0


def test_measuring_leaves_no_memory_and_no_random_numbers_behind():
    measure_parts(TINY, CPU)
    gc.collect()
    state = torch.get_rng_state()
    before = live_bytes()
    # A card's memory must be free at once, not when rubbish is collected some day.
    gc.disable()
    measure_parts(TINY, CPU)
    after = live_bytes()
    gc.enable()
    assert after == before
    assert torch.equal(torch.get_rng_state(), state)


def test_two_layers_of_the_large_model_are_measured_in_little_memory():
    assert sample_bytes(LARGE) < 5 * 2**30 < LARGE.weights(range(40)) / 6
    assert sample_of(LARGE).tokens == LARGE.tokens


def test_a_kind_of_device_is_measured_once(caplog):
    caplog.set_level("INFO")
    known, rooms = Measurements(), []

    def make_room(device: torch.device, size: int) -> None:
        rooms.append((device, size))

    first = known.of(TINY, CPU, make_room)
    assert known.of(Workload(CONFIG, replace(PLAN, seed=7, num_clip=9), torch.float32, 2), CPU, make_room) is first
    assert rooms == [(CPU, sample_bytes(TINY))]
    assert [r.getMessage().startswith("Measured on cpu in ") for r in caplog.records] == [True]
    assert known.of(replace(TINY, plan=replace(PLAN, width=128)), CPU, make_room) is not first
    assert known.of(replace(TINY, dtype=torch.bfloat16), CPU, make_room) is not first
    assert len(rooms) == 3


def test_a_device_without_room_is_tried_once(caplog):
    tries = []

    def no_room(device: torch.device, size: int) -> None:
        tries.append(device)
        raise torch.cuda.OutOfMemoryError

    known = Measurements()
    found = [measured_on(TINY, [CPU, CPU], known, no_room) for _ in range(2)]
    assert found == [Timed(TINY, (1.0, 1.0))] * 2
    assert tries == [CPU] and [r.levelname for r in caplog.records] == ["WARNING"]


def test_on_a_processor_long_work_is_counted(caplog):
    caplog.set_level("INFO")
    seconds = seconds_on(LARGE, CPU)
    assert seconds is not None and not caplog.records
    assert seconds.voice / seconds.layer == pytest.approx(LARGE.counted_flops.voice / LARGE.counted_flops.layer)
    assert seconds.layer > 1


def test_one_stage_or_a_layer_for_each_decides_nothing():
    assert [decides_split(TINY, stages) for stages in range(1, 6)] == [False, True, True, True, False]


def test_equal_devices_are_equally_fast():
    timed = measured_on(TINY, [CPU, torch.device("cpu", 0), CPU], Measurements())
    assert timed.speeds == (1.0,) * 3 and timed.work.part_flops.layer == TINY.counted_flops.layer
    assert timed.rate is not None and timed.work.measured_flops is not None


def test_a_device_without_room_leaves_all_as_it_was():
    assert with_measured(LARGE, [CARD, None]) == Timed(LARGE, (1.0, 1.0))


def test_the_rate_is_that_of_the_slowest():
    timed = with_measured(LARGE, [CARD, slower(2)])
    assert timed.speeds == (2.0, 1.0) and timed.rate is not None
    seconds = timed.work.evaluation_flops(range(40)) / timed.rate
    assert seconds == pytest.approx(slower(2).evaluation(WAN_S2V_14B))


def test_stages_of_one_device_share_its_speed():
    cards = [torch.device("cuda", 0), torch.device("cuda", 1), torch.device("cuda", 0), CPU, torch.device("cpu", 0)]
    assert stages_beside(cards) == [2, 1, 2, 2, 2]


@pytest.mark.parametrize(("times", "expected"), [(1, [20, 20]), (3, [30, 10]), (1.01, [20, 20])])
def test_a_slower_card_gets_fewer_layers(times, expected):
    assert sizes(LARGE, [CARD, slower(times)]) == pytest.approx(expected, abs=1)
    assert sizes(LARGE, [CARD, slower(times)]) == sizes(LARGE, [CARD, slower(times)])


def test_what_stands_before_and_after_the_layers_is_taken_into_account():
    evenly = sizes(LARGE, [CARD] * 2)
    costly_first = sizes(LARGE, [replace(CARD, first=0.2)] * 2)
    costly_last = sizes(LARGE, [replace(CARD, last=0.2)] * 2)
    assert costly_first[0] < evenly[0] < costly_last[0]
    # 0.2 s are 6.7 layers, of which each side bears a half.
    assert costly_first[0] == pytest.approx(evenly[0] - 3, abs=1)


def test_the_decoder_is_taken_into_account_as_before():
    timed = with_measured(LARGE, [CARD] * 4)
    first, *others = (len(part) for part in plan_layers(timed.work, [Device()] * 4, decodes_first=True)[0])
    assert first < min(others)


@pytest.mark.parametrize("noise", [0.99, 1.01])
def test_noise_changes_no_split(noise):
    cards = [CARD, slower(1.5), slower(2.5)]
    noisy = [CARD, slower(1.5 * noise), replace(slower(2.5), voice=CARD.voice * 2.5 * noise)]
    assert sizes(LARGE, noisy) == sizes(LARGE, cards)


def test_rounding_is_coarse_but_not_too_coarse():
    assert rounded(0.0) == 0.0 and rounded(1.0) == 1.0 and rounded(0.02) == 0.0 and rounded(0.26) == 0.25
    for value in (1.234, 2.34, 5.6, 17.0, 300.0):
        assert abs(rounded(value) / value - 1) <= GRAIN / 2


def facts(seconds: PartCosts | None, kind: str = "card", gib: float | None = None) -> RankFacts:
    return RankFacts(kind, seconds, None if gib is None else int(gib * 2**30))


def test_ranks_share_the_layers_by_time_and_memory():
    slow = facts(slower(3), "old card")
    assert [len(part) for part in layers_of(LARGE, [facts(CARD), slow])] == pytest.approx([30, 10], abs=1)
    small = [facts(CARD, gib=12), facts(slower(3), "old card", 80)]
    layers = layers_of(LARGE, small)
    assert LARGE.weights(layers[0]) < 12 * 2**30
    # Nothing of this size fits; with a smaller one it may work all the same.
    tiny = [facts(CARD, gib=1), facts(slower(3), "old card", 1)]
    assert layers_of(LARGE, tiny) == layers_of(LARGE, [facts(CARD), slow])


def test_ranks_with_one_kind_of_card_are_equally_fast():
    ranks = [facts(slower(1 + 0.1 * number)) for number in range(4)]
    assert [len(part) for part in layers_of(LARGE, ranks)] == [10, 10, 10, 10]
    assert layers_of(LARGE, [*ranks[:3], facts(None)]) == layers_of(LARGE, [facts(None)] * 4)


def test_all_ranks_of_a_group_agree():
    """Each measures for itself, at the same time as the others, so what they find differs."""
    store, found = HashStore(), {}

    def rank(number: int) -> Rank:
        return Rank(number, 3, CPU, store, StallDetector())

    def decide(number: int) -> None:
        found[number] = agree_on_layers(rank(number), 3, CONFIG, torch.float32, PLAN)

    threads = [threading.Thread(target=decide, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1] == found[2]
    assert [layer for part in found[0] for layer in part] == list(range(CONFIG.num_layers))
    measured = [facts_of(rank(0), number).seconds for number in range(3)]
    assert None not in measured and len(set(measured)) == 3
