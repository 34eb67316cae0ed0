"""What sizes take, before a run: as the planner of the run and the README's table have it."""

from dataclasses import replace

import pytest
from card_setups import FP8, setup_of

from benchmarks.card_table import RTX_4090, RTX_5090, Row
from liveavatar_runtime.devices import AUTO
from liveavatar_runtime.executors.size_costs import at_size, size_cost
from liveavatar_runtime.planning.memory import CacheChoice, choose_placement, ram_bytes
from liveavatar_runtime.texts import GIB


@pytest.mark.parametrize("size", ["688x368", "384x256"])
def test_one_card_is_as_in_the_readme(size: str):
    row = Row(RTX_5090, "fp8", size)
    cost = size_cost(row.work, setup_of(row.work, RTX_5090))
    assert cost.fits and cost.fps and f"{cost.fps}, predicted" in row.line()
    assert cost.memory[0] <= 32 * GIB * 0.92 + 1


def test_caches_are_where_the_run_puts_them():
    setup = setup_of(FP8)
    cost = size_cost(FP8, setup)
    placement = choose_placement(FP8, setup.machines.devices[0], CacheChoice())
    assert placement.kv_cache == "ram" and cost.ram == ram_bytes(FP8, placement) > 35 * GIB
    smaller = at_size(FP8, 384, 256)
    saved = size_cost(smaller, setup_of(smaller))
    assert saved.fps and cost.fps and saved.ram < cost.ram / 2 and saved.fps.likely > 2.5 * cost.fps.likely
    assert size_cost(FP8, setup_of(FP8, kv_dtype="fp8")).ram < 0.6 * cost.ram


def test_what_does_not_fit_tells_what_it_would_need():
    poor = replace(RTX_4090, ram=8 * GIB)
    cost = size_cost(FP8, setup_of(FP8, poor))
    assert not cost.fits and cost.fps is None and cost.ram > 8 * GIB
    assert 1 * GIB < cost.memory[0] < 24 * GIB


def test_several_cards_share_the_work():
    four = size_cost(FP8, setup_of(FP8, count=4, executor="layer_pipeline"))
    auto = size_cost(FP8, setup_of(FP8, count=4, executor=AUTO))
    assert len(four.memory) == 4 and four.fits and four == auto
    one = size_cost(FP8, setup_of(FP8))
    assert four.fps and one.fps and four.fps.likely > 1.5 * one.fps.likely
