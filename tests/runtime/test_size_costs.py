"""What sizes take, before a run: as the planner of the run and the README's table have it."""

from dataclasses import replace

import pytest
import torch

from benchmarks.card_table import RTX_4090, RTX_5090, WEIGHTS, Row
from liveavatar_runtime.config import WAN_S2V_14B
from liveavatar_runtime.devices import AUTO
from liveavatar_runtime.executors.size_costs import Setup, at_size, size_cost
from liveavatar_runtime.planning.machines import Machines
from liveavatar_runtime.planning.memory import CacheChoice, choose_placement, decode_bytes, ram_bytes
from liveavatar_runtime.planning.workload import DECODER_PARAMETERS, Workload
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.texts import GIB
from liveavatar_runtime.vae.config import VaeConfig

PLAN = ClipPlan(num_clip=1, width=688, height=368, keep_aspect=False)
FP8 = Workload(WAN_S2V_14B, PLAN, stored_bytes=int(WEIGHTS["fp8"]))


def setup_of(work: Workload, card=RTX_4090, count: int = 1, executor: str = "local", **caches) -> Setup:
    """Cards with enough RAM, of which the first decodes."""
    size = DECODER_PARAMETERS * 2 + decode_bytes(VaeConfig(), work.plan, torch.bfloat16)
    first = replace(card, occupied=size)
    machines = Machines.here([first, *[card] * (count - 1)], 0)
    return Setup(machines=machines, decoder_bytes=size, executor=executor, caches=CacheChoice(**caches))


@pytest.mark.parametrize("size", ["688x368", "384x256"])
def test_one_card_is_as_in_the_readme(size: str):
    row = Row(RTX_5090, "fp8", size)
    cost = size_cost(row.work, setup_of(row.work, RTX_5090))
    assert cost.fits and f"{cost.fps:.1f}, predicted" in row.line()
    assert cost.memory[0] <= 32 * GIB * 0.92 + 1


def test_caches_are_where_the_run_puts_them():
    setup = setup_of(FP8)
    cost = size_cost(FP8, setup)
    placement = choose_placement(FP8, setup.machines.devices[0], CacheChoice())
    assert placement.kv_cache == "ram" and cost.ram == ram_bytes(FP8, placement) > 35 * GIB
    smaller = at_size(FP8, 384, 256)
    saved = size_cost(smaller, setup_of(smaller))
    assert saved.ram < cost.ram / 2 and saved.fps > 2.5 * cost.fps
    assert size_cost(FP8, setup_of(FP8, kv_dtype="fp8")).ram < 0.6 * cost.ram


def test_what_does_not_fit_tells_what_it_would_need():
    poor = replace(RTX_4090, ram=8 * GIB)
    cost = size_cost(FP8, setup_of(FP8, poor))
    assert not cost.fits and cost.fps == 0 and cost.ram > 8 * GIB
    assert 1 * GIB < cost.memory[0] < 24 * GIB


def test_several_cards_share_the_work():
    four = size_cost(FP8, setup_of(FP8, count=4, executor="layer_pipeline"))
    auto = size_cost(FP8, setup_of(FP8, count=4, executor=AUTO))
    assert len(four.memory) == 4 and four.fits and four == auto
    assert four.fps > 1.5 * size_cost(FP8, setup_of(FP8)).fps
