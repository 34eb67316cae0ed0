"""The measure of a run: where it is, seconds a block, time left, memory."""

from fractions import Fraction

import pytest
import torch

from liveavatar_runtime.sampling.pace import DeviceMemory, PaceMeter, clock_text, pace_text, sampled_text, short_seconds
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import Evaluation

PLAN = ClipPlan(num_clip=3, infer_frames=24, fps=Fraction(16), width=64, height=64, keep_aspect=False)
GIB = 2**30


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def evaluation(block: int, step: int) -> Evaluation:
    nothing = torch.zeros(16, 3, 8, 8)
    return Evaluation(block, step, 0.5, nothing, nothing)


def run(meter: PaceMeter, clock: Clock, block_seconds: list[float], first_block: int = 0):
    """Paces after every step of the blocks, whose seconds are shared equally by their steps."""
    paces = []
    for number, seconds in enumerate(block_seconds):
        for step in range(PLAN.steps):
            clock.now += seconds / PLAN.steps
            paces.append(meter.after(evaluation(first_block + number, step)))
    return paces


def test_a_first_block_that_loads_does_not_count_and_time_left_falls_evenly():
    clock = Clock()
    paces = run(PaceMeter(PLAN, clock=clock), clock, [30.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    first, second, last = paces[3], paces[7], paces[-1]
    assert first.first_block_seconds == pytest.approx(30) and first.block_seconds is None and first.seconds_left is None
    assert second.block_seconds == pytest.approx(2) and second.seconds_left == pytest.approx(8)
    assert second.realtime == pytest.approx(0.75 / 2)
    left = [pace.seconds_left for pace in paces[7:]]
    assert [a - b for a, b in zip(left, left[1:], strict=False)] == pytest.approx([0.5] * (len(left) - 1))
    assert last.seconds_left == 0 and (last.clip, last.block, last.step) == (3, 2, 4)


def test_one_slow_block_does_not_move_the_time_left():
    clock = Clock()
    paces = run(PaceMeter(PLAN, clock=clock), clock, [2.0, 2.0, 2.0, 2.0, 60.0])
    assert paces[-1].block_seconds == pytest.approx(2) and paces[-1].seconds_left == pytest.approx(2)


def test_steps_of_several_blocks_at_once_count_as_they_come():
    """As the batched schedule and the pipelines make them: block 1's first step before block 0's last."""
    clock, meter = Clock(), None
    meter = PaceMeter(PLAN, clock=clock)
    blocks = range(PLAN.num_blocks)
    order = [(b, s) for time in range(20) for b in blocks for s in range(4) if b + s == time]
    paces = []
    for block, step in order:
        clock.now += 0.5
        paces.append(meter.after(evaluation(block, step)))
    assert meter.blocks == PLAN.num_blocks and paces[-1].seconds_left == 0
    known = [pace.seconds_left for pace in paces if pace.seconds_left is not None]
    assert len(known) > 8 and all(left >= 0 for left in known)


def test_going_on_in_the_middle_has_only_the_rest_to_do():
    clock = Clock()
    paces = run(PaceMeter(PLAN, clock=clock), clock, [2.0, 2.0], first_block=3)
    assert paces[-1].seconds_left == pytest.approx(2) and (paces[-1].clip, paces[-1].block) == (3, 1)


def test_memory_is_the_most_of_each_device():
    used = iter([3, 5, 4])
    meter = PaceMeter(PLAN, lambda: [DeviceMemory("cuda:0", next(used) * GIB, 80 * GIB)], Clock())
    for step in range(3):
        pace = meter.after(evaluation(0, step))
    assert pace.memory == (DeviceMemory("cuda:0", 5 * GIB, 80 * GIB),)


def test_the_texts():
    clock = Clock()
    meter = PaceMeter(PLAN, lambda: [DeviceMemory("cpu", 3 * GIB, 24 * GIB)], clock)
    paces = run(meter, clock, [30.0, 2.0])
    assert pace_text(paces[0]) == "clip 1 of 3, block 1 of 2, step 1 of 4; RAM 3.0 GiB of 24.0 GiB"
    assert pace_text(paces[-1]) == (
        "clip 1 of 3, block 2 of 2, step 4 of 4; 8 s left; 2.0 s a block; first block 30.0 s; 0.38x real time; "
        "RAM 3.0 GiB of 24.0 GiB"
    )
    assert sampled_text(paces[-1], meter.blocks) == (
        "sampled 2 blocks in 32 s; 2.0 s a block; first block 30.0 s; 0.38x real time; RAM 3.0 GiB of 24.0 GiB"
    )
    assert [clock_text(s) for s in (0.4, 59.4, 65, 3780)] == ["0 s", "59 s", "1 min 05 s", "1 h 03 min"]
    assert [short_seconds(s) for s in (0.421, 8.44, 125.2)] == ["0.42 s", "8.4 s", "125 s"]
