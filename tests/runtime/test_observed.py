"""What runs tell the planner: records that are exact on the disk, and ranges that hold."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveavatar_runtime.config import WAN_S2V_14B
from liveavatar_runtime.dit.placement import Placement
from liveavatar_runtime.errors import InputError
from liveavatar_runtime.planning.observed import NONE_OBSERVED, ObservedSpeed, ObservedSpeeds, SpeedKey
from liveavatar_runtime.planning.ranges import Range, worst
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.sampling.plan import ClipPlan

WORK = Workload(WAN_S2V_14B, ClipPlan(width=688, height=368, keep_aspect=False), stored_bytes=32_591_511_218)
KEY = SpeedKey.of(WORK, ["RTX 4090"] * 2, "layer_pipeline", Placement("ram", "fp8", device_layers=3))
SPEED = ObservedSpeed(key=KEY, block_seconds=4.0, first_block_seconds=7.1, spread=0.1, blocks=36, date="2026-11-28")
POSITIVE = st.floats(1e-3, 1e9)


@given(POSITIVE, st.floats(0, 9), POSITIVE)
def test_a_range_keeps_its_order_and_its_value(likely, error, factor):
    found = Range.around(likely, error)
    assert found.low <= found.likely <= found.high and found.holds(likely)
    assert found.scaled(factor).inverse().inverse().likely == pytest.approx(likely * factor)
    assert found.inverse(12).holds(12 / likely)


@pytest.mark.parametrize("bounds", [(0, 1, 2), (2, 1, 3), (1, 3, 2), (1, 2, float("inf")), (float("nan"), 1, 2)])
def test_bounds_in_another_order_are_none(bounds):
    with pytest.raises(InputError, match="is no range"):
        Range(*bounds)


def test_people_read_both_ends_where_they_differ():
    assert str(Range(1.8, 2.2, 2.6)) == "1.8 to 2.6"
    assert str(Range(2.19, 2.2, 2.21)) == str(Range.exactly(2.2)) == "2.2"
    assert Range(101, 102, 103).text(0) == "102"
    assert worst(["measured", "assumed", "published"]) == "assumed" and worst([]) == "unknown"


def test_a_key_is_what_decides_the_speed():
    assert KEY.weight_bytes == 2.0 and KEY.dtype == "bfloat16" and (KEY.kv_cache, KEY.kv_dtype) == ("ram", "fp8")
    smaller = replace(WORK, plan=replace(WORK.plan, width=384, height=256))
    other = SpeedKey.of(smaller, KEY.cards, KEY.executor, Placement())
    assert other != KEY and other.is_kin(KEY) and not other.is_kin(replace(KEY, executor="fsdp"))


@given(st.lists(POSITIVE, min_size=1, max_size=40), POSITIVE)
def test_a_record_of_blocks_is_read_as_it_was_written(seconds, first):
    speed = ObservedSpeed.of_blocks(KEY, seconds, first, "2026-11-28")
    assert ObservedSpeed.from_json(speed.to_json()) == speed
    assert min(seconds) <= speed.block_seconds <= max(seconds) and speed.blocks == len(seconds)
    assert speed.fps.holds(12 / speed.block_seconds) and speed.first_block.holds(first)


def test_the_spread_is_that_of_most_blocks():
    speed = ObservedSpeed.of_blocks(KEY, [1.0] * 9 + [0.8, 1.2, 1.0, 1.0, 1.0, 1.0] + [50.0], 2.0, "2026-11-28")
    assert speed.block_seconds == 1.0 and 0.02 < speed.spread < 0.2
    with pytest.raises(InputError, match="no block"):
        ObservedSpeed.of_blocks(KEY, [], 2.0, "2026-11-28")


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"blocks": 0},
        {"blocks": True},
        {"spread": -1},
        {"block_seconds": "4"},
        {"date": 20261128},
        {"more": 1},
        {"key": None},
        {"key": {**json.loads(SPEED.to_json())["key"], "cards": []}},
        {"key": {**json.loads(SPEED.to_json())["key"], "cards": ["x" * 300]}},
        {"key": {**json.loads(SPEED.to_json())["key"], "batched": 1}},
        {"key": {**json.loads(SPEED.to_json())["key"], "width": 0}},
    ],
)
def test_what_is_no_record_is_refused(change):
    with pytest.raises(InputError):
        ObservedSpeed.from_json(json.dumps({**json.loads(SPEED.to_json()), **change}))


@pytest.mark.parametrize("text", ["", "{", "[]", b"\xff", SPEED.to_json().replace("4.0", "NaN")])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(InputError):
        ObservedSpeed.from_json(text)


def test_one_record_a_key_and_those_of_other_videos_by_distance():
    short, newer = replace(SPEED, blocks=3, date="2026-11-29"), replace(SPEED, block_seconds=3.0, blocks=9)
    assert ObservedSpeeds.of([SPEED, short]).records == (SPEED,)
    assert ObservedSpeeds.of([SPEED, newer]).find(KEY) == newer
    near, far = (
        replace(SPEED, key=replace(KEY, width=width, height=height)) for width, height in ((704, 384), (384, 256))
    )
    foreign = replace(SPEED, key=replace(KEY, cards=("H100",)))
    known = ObservedSpeeds.of([far, near, foreign])
    assert known.find(KEY) is None and known.kin(KEY) == [near, far] and NONE_OBSERVED.find(KEY) is None
