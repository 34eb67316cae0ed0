"""Memory of sampling, predicted from the plan."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from liveavatar_runtime.config import DEMO, WAN_S2V_14B
from liveavatar_runtime.dit.kv_cache import ResidentCache
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.dit.placement import Placement
from liveavatar_runtime.errors import MachineError
from liveavatar_runtime.planning.device import Device
from liveavatar_runtime.planning.memory import (
    LADDER,
    CacheChoice,
    cache_bytes,
    choose_placement,
    fits,
    moved_bytes,
    ram_bytes,
    settled,
    streamed_bytes,
    working_bytes,
)
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.script import Change, Script

PLAN = ClipPlan(width=688, height=368, keep_aspect=False)
LARGE = Workload(WAN_S2V_14B, PLAN)


def test_ring_of_one_step_is_what_the_model_needs():
    """9.05 GiB in bf16 at 688x368: keys and values of 12 latent frames in 40 layers of 5120."""
    shape = CausalWanS2V(WAN_S2V_14B, device="meta").cache_shape(PLAN.grid, 1, 4, 3)
    ring = 2 * WAN_S2V_14B.num_layers * 4 * shape.block_tokens * WAN_S2V_14B.dim * 2
    assert ring / 2**30 == pytest.approx(9.05, abs=0.01)


@pytest.mark.parametrize("window_blocks", [1, 4])
def test_the_predicted_cache_is_the_allocated_one(window_blocks):
    plan = ClipPlan(width=128, height=64, keep_aspect=False, steps=3, window_blocks=window_blocks)
    shape = CausalWanS2V(DEMO, device="meta").cache_shape(plan.grid, plan.steps, plan.window_blocks, 3)
    cache = ResidentCache(shape, range(DEMO.num_layers), torch.float32, "cpu")
    tensors = [*cache.keys.values(), *cache.values.values()]
    turned = shape.reference_tokens * DEMO.num_heads * shape.temporal_channels
    reference_keys = turned * DEMO.num_layers * torch.float32.itemsize
    assert cache_bytes(Workload(DEMO, plan, torch.float32)) == sum(tensor.nbytes for tensor in tensors) + reference_keys


def test_the_length_needs_no_memory():
    assert working_bytes(LARGE) == working_bytes(replace(LARGE, plan=replace(PLAN, num_clip=1000)))


def test_two_prompts_are_there_while_one_follows_the_other():
    """0.39 GiB each: keys and values of 512 tokens in 40 layers."""
    script = Script((Change(block=4, text=True), Change(block=8, text=True)))
    changing = replace(LARGE, plan=replace(PLAN, script=script))
    assert working_bytes(changing) - working_bytes(LARGE) == 2 * 40 * 512 * 5120 * 2
    other = replace(LARGE, plan=replace(PLAN, script=Script((Change(block=4, seed=1),))))
    assert working_bytes(other) == working_bytes(LARGE)


GIB = 2**30
IN_BF16, IN_FP8 = (replace(LARGE, stored_bytes=int(gib * GIB)) for gib in (30.35, 15.3))


def card(gib: float, ram: float = 64, decoder: float = 0) -> Device:
    """All of its memory is for sampling and decoding."""
    return Device(memory=gib * GIB, reserve=0, ram=ram * GIB, occupied=decoder * GIB)


def test_a_large_card_keeps_everything():
    assert choose_placement(IN_BF16, card(96, decoder=3)) == Placement("device", "model", False)


def test_a_24_gib_card_keeps_the_caches_in_ram_and_streams_weights_once_a_block():
    chosen = choose_placement(IN_BF16, card(24, decoder=3))
    assert chosen == Placement("ram", "model", True)
    assert ram_bytes(IN_BF16, chosen) / GIB == pytest.approx(39.9, abs=0.5)
    sequential = replace(chosen, batched=False)
    assert moved_bytes(IN_BF16, card(24, decoder=3), chosen) < moved_bytes(IN_BF16, card(24, decoder=3), sequential)


def test_fp8_weights_that_fit_are_not_batched():
    chosen = choose_placement(IN_FP8, card(24, decoder=2))
    assert (chosen.kv_cache, chosen.batched) == ("ram", False) and 0 < chosen.device_layers < 10
    assert moved_bytes(IN_FP8, card(24, decoder=2), chosen) > 0


def test_caches_fill_the_room_that_the_weights_leave():
    """On 80 GiB the resident caches with a sink for every step don't fit beside bf16 weights, staged ones do."""
    chosen = choose_placement(IN_BF16, card(75, decoder=3))
    assert chosen == Placement("ram", "model", False, WAN_S2V_14B.num_layers)
    assert moved_bytes(IN_BF16, card(75, decoder=3), chosen) == 0
    assert ram_bytes(IN_BF16, chosen) == 0
    half = choose_placement(IN_BF16, card(48, decoder=3))
    assert 5 < half.device_layers < 20 and half.kv_cache == "ram"
    needed = working_bytes(IN_BF16, half) + IN_BF16.weights(IN_BF16.layers) + 3 * GIB
    assert 47 * GIB < needed <= 48 * GIB


def test_wishes_are_kept():
    chosen = choose_placement(IN_BF16, card(96), CacheChoice("ram", "fp8", "batched"))
    assert chosen == Placement("ram", "fp8", True)


def test_a_machine_that_is_too_small_is_told_what_is_missing():
    """What would help is Plan Check's (test_plan_check.py)."""
    expected = (
        r"688x368 in 4 steps needs .* beside the weights; there are 24.0 GiB on the device and 16.0 GiB of RAM for "
    )
    with pytest.raises(MachineError, match=expected):
        choose_placement(IN_BF16, card(24, ram=16))
    with pytest.raises(MachineError, match=r"needs 4\d\.\d GiB .*beside the weights"):
        choose_placement(IN_BF16, card(24, ram=16), CacheChoice("device"))
    assert choose_placement(IN_BF16, card(24, ram=23 + 10), CacheChoice(kv_dtype="fp8"))


def test_one_reserve_and_what_else_is_there_are_no_room_for_sampling():
    """What stays free, and the VAE: stages that share a device share what is left."""
    device = Device(memory=100 * GIB, occupied=12 * GIB, shared_by=2, flops=8.0)
    assert (device.usable, device.room, device.speed) == (92 * GIB, 40 * GIB, 4.0)
    assert (device.alone.room, device.alone.speed) == (80 * GIB, 8.0)
    assert Device().room == float("inf") and Device(memory=GIB, occupied=2 * GIB).room == 0


def test_batching_needs_more_memory_for_activations():
    batched = Placement(batched=True)
    small = Workload(DEMO, PLAN, torch.float32)
    more = working_bytes(small, batched) - working_bytes(small)
    assert more > 0


@pytest.mark.parametrize("gib", [12, 16, 24])
@pytest.mark.parametrize("work", [IN_FP8, IN_BF16], ids=["fp8", "bf16"])
def test_auto_keeps_smaller_caches_where_the_model_s_do_not_fit(gib, work):
    """Below 37 GiB of RAM for caches the default size was refused."""
    # With the weights that find no room on the card.
    more = streamed_bytes(work, (gib - 2) * GIB, Placement("ram")) / GIB
    small, large = (card(gib, ram=ram + more, decoder=2) for ram in (36, 48))
    chosen = settled(CacheChoice(), partial(fits, work, small))
    assert chosen == CacheChoice(kv_dtype="fp8") and choose_placement(work, small, chosen).kv_dtype == "fp8"
    assert settled(CacheChoice(), partial(fits, work, large)) == CacheChoice(kv_dtype="model")


def test_a_dtype_that_was_chosen_stays_and_what_fits_nowhere_is_told():
    explicit = CacheChoice(kv_dtype="model")
    assert settled(explicit, partial(fits, IN_BF16, card(12, ram=1))) is explicit
    last = settled(CacheChoice(), partial(fits, IN_BF16, card(12, ram=1)))
    assert last.kv_dtype == "fp8"
    with pytest.raises(MachineError, match=r"needs .* beside the weights; there are .* and 1.0 GiB of RAM"):
        choose_placement(IN_BF16, card(12, ram=1), last)
    assert settled(CacheChoice(), lambda choice: False, LADDER[:1]).kv_dtype == "model", "of a device without fp8"
