"""Caches in RAM and as fp8 against the resident one: the same latents, the predicted bytes."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from test_block_run import CPU, PLAN, latents
from test_block_run import conditions as conditions
from test_block_run import executor as executor

from liveavatar_runtime.config import DEMO
from liveavatar_runtime.dit.fp8 import FP8_MAX
from liveavatar_runtime.dit.placement import Placement
from liveavatar_runtime.dit.staged_cache import Fp8Store, StagedCache, spread
from liveavatar_runtime.planning.memory import cache_bytes, cache_traffic, ring_bytes, staging_bytes
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.sampling.evaluator import Evaluator, PlacedModel
from liveavatar_runtime.sampling.run import RunStart, SamplingRequest

RAM = partial(StagedCache, placement=Placement("ram"))
FP8 = partial(StagedCache, placement=Placement("ram", "fp8"))


def started(executor, conditions, make_cache) -> Evaluator:
    """At the first block, with its sink."""
    place = PlacedModel(executor.model, CPU)
    evaluator = Evaluator(place, SamplingRequest(conditions, PLAN), torch.float32, make_cache)
    with torch.inference_mode():
        evaluator.condition(evaluator.embed_conditions())
        evaluator.fill_sink(evaluator.begin(), evaluator.embed_sink(conditions.reference))
    return evaluator


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(("infer_frames", "window_blocks"), [(12, 4), (24, 1), (48, 3)])
def test_a_cache_in_ram_gives_identical_latents(executor, conditions, infer_frames, window_blocks, batched):
    plan = replace(PLAN, infer_frames=infer_frames, window_blocks=window_blocks)
    executor = replace(executor, batched=batched)
    resident = list(executor.run(SamplingRequest(conditions, plan)))
    staged = list(replace(executor, make_cache=RAM).run(SamplingRequest(conditions, plan)))
    assert torch.equal(latents(staged), latents(resident))


def test_a_cache_in_fp8_comes_close(executor, conditions):
    exact = latents(list(executor.run(SamplingRequest(conditions, PLAN))))
    coarse = latents(list(replace(executor, make_cache=FP8).run(SamplingRequest(conditions, PLAN))))
    assert not torch.equal(coarse, exact)
    assert (coarse - exact).square().mean() < 1e-3 * exact.square().mean()


@pytest.mark.parametrize("make_cache", [RAM, FP8], ids=["model", "fp8"])
@pytest.mark.parametrize("first", [2, 5])
def test_kept_rings_continue_exactly(executor, conditions, make_cache, first):
    executor = replace(executor, make_cache=make_cache)
    whole = list(executor.run(SamplingRequest(conditions, PLAN, keep_rings=lambda block: block == first - 1)))
    start = RunStart(first, {0: whole[0].latents[:, :1]}, whole[first - 1].rings)
    assert torch.equal(latents(list(executor.run(SamplingRequest(conditions, PLAN, start)))), latents(whole[first:]))


@pytest.mark.parametrize("stored", ["model", "fp8"])
@pytest.mark.parametrize(("batched", "device_layers"), [(False, 0), (True, 0), (False, 3)])
def test_a_block_moves_the_predicted_bytes(executor, conditions, stored, batched, device_layers):
    """With a full ring; a batch moves the same, for four blocks at one step each."""
    made: list[StagedCache] = []

    def make_cache(*arguments) -> StagedCache:
        made.append(StagedCache(*arguments, placement=Placement("ram", stored, device_layers=device_layers)))
        return made[-1]

    plan = replace(PLAN, num_clip=6)
    run = replace(executor, make_cache=make_cache, batched=batched).run(SamplingRequest(conditions, plan))
    for _ in range(plan.window_blocks + 1):
        next(run)
    traffic = made[0].traffic
    before = (traffic.fetched, traffic.written)
    next(run)
    moved = (traffic.fetched - before[0], traffic.written - before[1])
    assert moved == cache_traffic(Workload(DEMO, plan, torch.float32), Placement("ram", stored, batched, device_layers))


def test_the_layers_on_the_device_are_spread():
    assert spread(range(8), 0) == [] and spread(range(8), 8) == list(range(8))
    assert spread(range(8), 2) == [3, 7] and len(spread(range(10, 50), 13)) == 13


@pytest.mark.parametrize("stored", ["model", "fp8"])
def test_the_predicted_size_is_the_allocated_one(executor, conditions, stored):
    make_cache = partial(StagedCache, placement=Placement("ram", stored))
    evaluator = started(executor, conditions, make_cache)
    cache, sink, placement = evaluator.cache, evaluator.sink_of(0), Placement("ram", stored)
    assert isinstance(cache, StagedCache)
    work = Workload(DEMO, PLAN, torch.float32)
    stores = [*cache._keys.values(), *cache._values.values()]
    rings = sum(part.nbytes for store in stores for row in range(PLAN.steps) for part in store.parts(row).values())
    kept = [*sink.keys.values(), *sink.values.values()]
    # A new sink is made beside the one that is read.
    assert rings + 2 * sum(t.nbytes for t in kept) == cache_bytes(work, placement)
    buffers = cache._buffer_keys.nbytes + cache._buffer_values.nbytes
    assert buffers == staging_bytes(work, placement)
    full = {name: t for step in range(PLAN.steps) for name, t in cache.ring(step, 10).items()}
    assert sum(t.nbytes for t in full.values()) == ring_bytes(work, placement)


def test_fp8_keeps_large_values_and_small_ones_of_other_heads():
    values = torch.randn(6, 2, 128, generator=torch.Generator().manual_seed(1)) * torch.tensor([1000.0, 0.01])[:, None]
    store = Fp8Store((1, 6, 2, 128), lambda shape, dtype: torch.zeros(shape, dtype=dtype))
    store.write(0, slice(0, 6), values)
    back = torch.empty_like(values)
    store.read(0, slice(0, 6), back)
    # A mantissa of three bits: at most 1/16 of the value, or half of the smallest step near zero.
    step = values.abs().amax(dim=-1, keepdim=True) / FP8_MAX * 2.0**-9
    assert ((back - values).abs() <= values.abs() / 16 + step).all()


def test_attention_out_of_order_is_noticed(executor, conditions):
    evaluator = started(executor, conditions, RAM)
    with torch.inference_mode():
        evaluator.hear(0, evaluator.embed_voice(0))
        evaluator.run_layers(evaluator.embed([evaluator.noise(0)], [0]), evaluator.rows([(0, 0)]))
    cache = evaluator.cache
    assert isinstance(cache, StagedCache)
    layer, use = cache._order[1]
    with torch.inference_mode(), pytest.raises(AssertionError, match="order"):
        cache.begin([use])
        cache.attend(layer, use, None)  # pyright: ignore[reportArgumentType]
