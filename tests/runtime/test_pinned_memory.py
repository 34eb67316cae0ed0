"""Buffers of system memory for caches: as large as is needed, pinned as far as may be, given back."""

import gc
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from liveavatar_runtime import pinned_memory
from liveavatar_runtime.config import DEMO
from liveavatar_runtime.dit.kv_cache import Sink
from liveavatar_runtime.dit.placement import Placement
from liveavatar_runtime.dit.staged_cache import CopyStream, SinkMemory, StagedCache
from liveavatar_runtime.pinned_memory import ALIGNMENT, HostMemory
from liveavatar_runtime.planning.memory import ram_bytes
from liveavatar_runtime.planning.workload import Workload, cache_shape
from liveavatar_runtime.sampling.plan import ClipPlan

CPU, CARD = torch.device("cpu"), torch.device("cuda")
KIB = 1024


class Recorded:
    """Pins so many buffers, and notes what is pinned; the driver's part, which needs a card."""

    def __init__(self, buffers: int = 99) -> None:
        self.left, self.pinned = buffers, list[int]()

    def pin(self, memory: Tensor) -> bool:
        self.left -= 1
        if self.left >= 0:
            self.pinned.append(memory.data_ptr())
        return self.left >= 0

    def unpin(self, memory: Tensor) -> None:
        self.pinned.remove(memory.data_ptr())


@pytest.fixture(autouse=True)
def no_card(monkeypatch) -> Iterator[None]:
    """The one call that needs one."""
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    monkeypatch.setattr(pinned_memory, "BUFFER_BYTES", 64 * KIB)
    yield


def test_tensors_have_their_sizes_and_nothing_in_common():
    sizes = [10 * KIB + 4, 40 * KIB, 100 * KIB, 1 * KIB]
    memory = HostMemory(sizes, CPU, Recorded())
    tensors = [memory.take((size // 4,), torch.float32) for size in sizes]
    for number, tensor in enumerate(tensors):
        tensor.fill_(number)
    assert all((tensor == number).all() for number, tensor in enumerate(tensors))
    assert all(
        (tensor.data_ptr() - memory._buffers[n].data_ptr()) % ALIGNMENT == 0
        for n, tensor in zip((0, 0, 1, 2), tensors, strict=True)
    )
    # Two fit into the first buffer; one that is larger than a buffer has its own.
    assert [b.nbytes for b in memory._buffers] == [10 * KIB + ALIGNMENT + 40 * KIB, 100 * KIB, 1 * KIB]
    assert memory.pinned_bytes == 0, "nothing is pinned for a processor"


def test_what_is_pinned_is_given_back_once():
    for end in ("close", "free"):
        pinning = Recorded()
        memory = HostMemory([40 * KIB] * 3, CARD, pinning)
        tensor = memory.take((KIB, 10), torch.float32).fill_(1)
        assert len(pinning.pinned) == 3 and memory.pinned_bytes == memory.nbytes == 120 * KIB
        if end == "close":
            memory.close()
            assert not pinning.pinned
            memory.close()
        del memory
        gc.collect()
        assert not pinning.pinned and (tensor == 1).all(), "whoever still holds a tensor can read it"


def test_what_may_not_be_pinned_is_ordinary_memory(caplog):
    pinning = Recorded(buffers=1)
    memory = HostMemory([40 * KIB] * 3, CARD, pinning)
    assert memory.pinned_bytes == 40 * KIB and memory.nbytes == 120 * KIB
    assert "could not be pinned; copies from there are slower" in caplog.text
    memory.close()
    assert not pinning.pinned


def test_a_sink_s_memory_is_used_again_when_the_sink_is_gone():
    plan = ClipPlan(width=64, height=64)
    sinks = SinkMemory(cache_shape(DEMO, plan), 2, torch.float32, CPU, Recorded())
    copies, first, second = CopyStream(CPU), Sink(), Sink()
    places = [sinks.of(sink, copies)[0].data_ptr() for sink in (first, second)]
    assert places[0] != places[1]
    assert sinks.of(first, copies)[0].data_ptr() != places[0], "the next layer's"
    del first
    gc.collect()
    assert sinks.of(third := Sink(), copies)[0].data_ptr() == places[0] and third is not second


@pytest.mark.parametrize("stored", ["model", "fp8"])
def test_caches_in_ram_take_what_the_plan_counts(stored):
    """No rounding: within the space between tensors."""
    plan, placement = ClipPlan(width=64, height=64), Placement("ram", stored, device_layers=1)
    cache = StagedCache(cache_shape(DEMO, plan), range(DEMO.num_layers), torch.float32, CPU, placement=placement)
    layers = range(DEMO.num_layers - 1)
    both = [Sink(), Sink()]
    for sink in both:
        for _ in layers:
            cache._sinks.of(sink, cache._copies)
    taken = cache._ram.nbytes + sum(memory.nbytes for memory in cache._sinks._of.values())
    planned = ram_bytes(Workload(DEMO, plan, torch.float32), placement)
    assert planned <= taken <= planned + ALIGNMENT * 8 * DEMO.num_layers
