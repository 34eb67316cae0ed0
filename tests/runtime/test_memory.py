"""Memory of sampling, predicted from the plan."""

from dataclasses import replace

import pytest
import torch

from liveavatar_runtime.config import DEMO, WAN_S2V_14B
from liveavatar_runtime.dit.kv_cache import ResidentCache
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.errors import MachineError
from liveavatar_runtime.planning.memory import cache_bytes, check_fits, working_bytes
from liveavatar_runtime.sampling.plan import ClipPlan

PLAN = ClipPlan(width=688, height=368, keep_aspect=False)


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
    reference_keys = shape.reference_tokens * DEMO.dim * DEMO.num_layers * torch.float32.itemsize
    assert cache_bytes(DEMO, plan, torch.float32) == sum(tensor.nbytes for tensor in tensors) + reference_keys


def test_the_length_needs_no_memory():
    assert working_bytes(WAN_S2V_14B, PLAN, torch.bfloat16) == working_bytes(
        WAN_S2V_14B, replace(PLAN, num_clip=1000), torch.bfloat16
    )


def test_a_card_that_is_too_small_is_told_what_helps():
    with pytest.raises(MachineError, match=r"needs 4\d\.\d GiB.*has 24\.0 GiB.*384x256: 1\d\.\d GiB.*window_blocks 2"):
        check_fits(WAN_S2V_14B, PLAN, torch.bfloat16, 24 * 2**30)
    check_fits(WAN_S2V_14B, PLAN, torch.bfloat16, 80 * 2**30)
