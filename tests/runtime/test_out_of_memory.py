"""A device that is full while it works, told with what frees the most."""

import re
from dataclasses import replace

import pytest
import torch
from tiny_avatar import PLAN, random_conditions, random_model

from liveavatar_runtime.config import WAN_S2V_14B
from liveavatar_runtime.errors import InputError, MachineError
from liveavatar_runtime.parallel.local import LocalExecutor
from liveavatar_runtime.planning.memory import Placement
from liveavatar_runtime.planning.out_of_memory import full_device_told, is_out_of_memory, pictures_told, sampling_ways
from liveavatar_runtime.sampling.plan import ClipPlan

CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)
LARGE = ClipPlan(num_clip=1, width=688, height=368, keep_aspect=False)


def ask_for_too_much() -> torch.Tensor:
    """What no machine has; the allocator refuses it before it takes anything."""
    return torch.empty(2**60, dtype=torch.uint8)


def test_the_processors_allocator_is_known():
    with pytest.raises(RuntimeError) as caught:
        ask_for_too_much()
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 must have the same dtype"))


def test_a_full_device_while_sampling_is_told_with_what_helps():
    """A cache that cannot be had; the error is of the classes that users and ComfyUI know."""
    executor = LocalExecutor(random_model(), CPU, torch.float32, lambda *_: ask_for_too_much())  # pyright: ignore
    with pytest.raises(MachineError) as caught:
        next(executor.run(random_conditions(), PLAN))
    assert isinstance(caught.value, torch.cuda.OutOfMemoryError)
    text = str(caught.value)
    size = rf"{PLAN.width}x{PLAN.height} in {PLAN.steps} steps"
    assert re.match(rf"cpu ran out of memory while sampling {size}: .*allocate memory", text), text
    assert "kv_dtype fp8 in DiT Sampler (" in text and "closing other programs that use cpu" in text
    # On the processor there is no other place for caches.
    assert "kv_cache ram" not in text


def test_the_ways_are_in_order_and_none_frees_nothing():
    config = WAN_S2V_14B
    ways = sampling_ways(config, LARGE, torch.bfloat16, Placement(batched=True), CARD)
    sizes = [float(found[0]) for way in ways if (found := re.findall(r"\(([\d.]+) GiB beside", way))]
    assert sizes == sorted(sizes) and len(sizes) == len(ways) - 1
    assert ways[0].startswith("kv_cache ram in DiT Sampler (")
    assert {"384x256 in Clip Scheduler", "kv_dtype fp8 in DiT Sampler"} <= {way.split(" (")[0] for way in ways}
    spare = Placement("ram", "fp8")
    names = {way.split(" (")[0] for way in sampling_ways(config, LARGE, torch.bfloat16, spare, CARD)}
    assert not names & {
        "kv_cache ram in DiT Sampler",
        "kv_dtype fp8 in DiT Sampler",
        "schedule sequential in DiT Sampler",
    }
    smaller = sampling_ways(config, replace(LARGE, width=384, height=256), torch.bfloat16, spare, CARD)
    assert not any("x" in way.split(" ")[0] for way in smaller)


def test_the_vaes_work_is_told_with_sizes():
    with pytest.raises(
        MachineError, match="cpu ran out of memory while decoding a block of 688x368: .*672x352 in Clip"
    ):
        with pictures_told("decoding a block of", 688, 368, CPU):
            ask_for_too_much()


@pytest.mark.parametrize("error", [InputError("wrong"), ValueError("other"), MachineError("is out of memory already")])
def test_other_errors_pass_as_they_are(error):
    with pytest.raises(type(error)) as caught, full_device_told("working", CPU, list):
        raise error
    assert caught.value is error
