"""Layers on a card that attention reads in place, two steps beside one sink: on a processor that is taken for one."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from test_block_run import CPU, PLAN, latents
from test_block_run import conditions as conditions
from test_block_run import executor as executor

from liveavatar_runtime.config import DEMO
from liveavatar_runtime.dit import staged_cache
from liveavatar_runtime.dit.paired_cache import step_places
from liveavatar_runtime.dit.placement import Placement
from liveavatar_runtime.dit.staged_cache import StagedCache
from liveavatar_runtime.planning.memory import cache_bytes, device_layer_bytes, staging_bytes
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.sampling.run import RunStart, SamplingRequest

SOME, ALL = Placement("ram", device_layers=2), Placement("ram", device_layers=DEMO.num_layers)


@pytest.fixture(autouse=True)
def card(monkeypatch):
    monkeypatch.setattr(staged_cache, "FUSED_FORMS", ("cpu",))


@pytest.mark.parametrize("placement", [SOME, ALL], ids=["some", "all"])
@pytest.mark.parametrize(("steps", "infer_frames", "window_blocks"), [(4, 24, 4), (3, 12, 2), (1, 12, 1)])
def test_the_latents_are_those_of_a_resident_cache(executor, conditions, placement, steps, infer_frames, window_blocks):
    """But for the order of a sum. With a sink that is renewed, a ring that is full, and references that move."""
    plan = replace(PLAN, steps=steps, infer_frames=infer_frames, window_blocks=window_blocks)
    resident = latents(list(executor.run(SamplingRequest(conditions, plan))))
    run = replace(executor, make_cache=partial(StagedCache, in_turn=True, placement=placement)).run(
        SamplingRequest(conditions, plan)
    )
    torch.testing.assert_close(latents(list(run)), resident, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("first", [2, 5])
def test_kept_rings_continue_exactly(executor, conditions, first):
    """Also those that another cache kept."""
    paired = replace(executor, make_cache=partial(StagedCache, in_turn=True, placement=SOME))
    whole = list(paired.run(SamplingRequest(conditions, PLAN, keep_rings=lambda block: block == first - 1)))
    rings = whole[first - 1].rings
    start = RunStart(first, {0: whole[0].latents[:, :1]}, rings)
    assert torch.equal(latents(list(paired.run(SamplingRequest(conditions, PLAN, start)))), latents(whole[first:]))
    other = latents(list(executor.run(SamplingRequest(conditions, PLAN, start))))
    torch.testing.assert_close(other, latents(whole[first:]), atol=1e-5, rtol=1e-5)


def test_a_ring_and_the_sink_are_one_slice():
    """Whatever the number of blocks in the ring; the rings of two steps have no token in common."""
    shape = executor_shape()
    places = step_places(shape, range(3))
    assert [place.buffer for place in places.values()] == [0, 0, 1]
    taken: dict[int, set[int]] = {0: set(), 1: set()}
    for place in places.values():
        sink = set(range(place.sink, place.sink + shape.sink_tokens))
        ring: set[int] = set()
        for block in range(shape.window_blocks + 2):
            slot = place.slot(shape, block)
            ring |= set(range(slot.start, slot.stop))
            attended = place.attended(shape, shape.valid_tokens(block))
            assert set(range(attended.start, attended.stop)) == sink | ring and not sink & ring
        assert not taken[place.buffer] & ring
        taken[place.buffer] |= ring


def executor_shape():
    return Workload(DEMO, PLAN, torch.float32).cache_shape


@pytest.mark.parametrize("steps", [3, 4, 6])
@pytest.mark.parametrize("placement", [SOME, ALL], ids=["some", "all"])
def test_the_predicted_size_is_the_allocated_one(steps, placement):
    plan = replace(PLAN, steps=steps)
    work = Workload(DEMO, plan, torch.float32)
    shape = work.cache_shape
    cache = StagedCache(shape, range(DEMO.num_layers), torch.float32, CPU, placement=placement, in_turn=True)
    turned = shape.reference_tokens * shape.heads * shape.temporal_channels * 4
    each = device_layer_bytes(work, placement) - turned
    assert cache._in_place.nbytes == placement.device_layers * each
    # Sinks of staged layers are made later; without such layers there are no buffers, which the plan keeps room for.
    sinks = 2 * shape.values(shape.sink_tokens) * 4 * (DEMO.num_layers - placement.device_layers)
    there = cache.nbytes + sinks + placement.device_layers * turned
    planned = cache_bytes(work, placement) + staging_bytes(work, placement)
    assert there == planned - (0 if placement is SOME else staging_bytes(work, placement))


def test_blocks_at_once_are_refused(executor, conditions):
    batched = replace(executor, batched=True, make_cache=partial(StagedCache, in_turn=True, placement=SOME))
    with pytest.raises(AssertionError, match="blocks must follow each other"):
        list(batched.run(SamplingRequest(conditions, PLAN)))
