"""How much of the system's memory pinned caches really take, and whether it is given back."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from liveavatar_runtime.config import AvatarConfig
from liveavatar_runtime.dit.placement import Placement
from liveavatar_runtime.dit.staged_cache import StagedCache
from liveavatar_runtime.planning.memory import ram_bytes, staged_layer_bytes
from liveavatar_runtime.planning.workload import Workload, cache_shape

from . import models
from .bench import GIB, Bench

BF16 = torch.bfloat16
LAYERS = 8
"""Of the model's that are measured: pinning takes seconds for some GiB."""
STATUS = ("VmRSS", "VmLck", "VmPin")
"""Of /proc/self/status, on Linux."""
TABLE = "Host memory of caches in RAM"


@dataclass(frozen=True)
class Held:
    """Bytes: what PyTorch's host allocator holds (None where it cannot say), what the process holds by several counts,
    and what the system has free."""

    allocator: int | None
    process: dict[str, int]
    free: int

    @classmethod
    def now(cls, bench: Bench) -> "Held":
        allocator = None
        statistics: Callable[[], Any] | None = getattr(torch.cuda, "host_memory_stats", None)
        if bench.on_card and statistics is not None:
            allocator = statistics().get("allocated_bytes.current")
        return cls(allocator, process_memory(), available())


def available() -> int:
    return psutil.virtual_memory().available


def process_memory() -> dict[str, int]:
    """Bytes by name: on Linux resident, locked and pinned memory, elsewhere what there is."""
    status = Path("/proc/self/status")
    if not status.exists():
        return {"VmRSS": psutil.Process().memory_info().rss}
    lines = (line.split() for line in status.read_text(encoding="ascii", errors="replace").splitlines())
    return {line[0].rstrip(":"): int(line[1]) * 1024 for line in lines if line and line[0].rstrip(":") in STATUS}


def measure(bench: Bench) -> None:
    """Caches of some layers at two sizes, one after the other in one process, as two videos are."""
    config = models.large_config(bench)
    large, small = reversed(models.sizes(bench)[-2:])
    for number, size in enumerate((large, small), start=1):
        plan = models.plan_of(bench, size)
        layers = min(LAYERS, config.num_layers)
        asked = layers * staged_layer_bytes(Workload(config, plan, BF16), Placement("ram"))
        if 2 * asked > 0.5 * available():
            bench.record.skip(f"{2 * asked / GIB:.0f} GiB would be pinned of {available() / GIB:.0f} that are free")
            return
        before = Held.now(bench)
        start = time.perf_counter()
        cache = StagedCache(cache_shape(config, plan), range(layers), BF16, bench.device)
        seconds = time.perf_counter() - start
        held = Held.now(bench)
        ram = cache._ram
        stores = cache.nbytes - 2 * cache._buffer_keys.nbytes
        _row(bench, f"{size[0]}x{size[1]}, run {number}", (layers, stores, ram.pinned_bytes), before, held, seconds)
        name = f"host memory of the caches of {layers} layers in RAM, {size[0]}x{size[1]}, run {number}"
        bench.record.compare(name, stores / GIB, ram.nbytes / GIB, "GiB")
        if bench.on_card:
            bench.record.check(f"all of it is pinned: {name}", ram.pinned_bytes == ram.nbytes, "")
        del cache, ram
        gc.collect()
        freed = Held.now(bench)
        _row(bench, f"after run {number}, all freed", (layers, 0, 0), before, freed, None)
    _whole_model(bench, config)
    give_back(bench)


def _whole_model(bench: Bench, config: AvatarConfig) -> None:
    for size in models.sizes(bench):
        plan = models.plan_of(bench, size)
        for placement in (Placement("ram"), Placement("ram", "fp8")):
            bench.record.row(
                "Host memory of the whole model's caches, counted",
                size=f"{size[0]}x{size[1]}",
                caches=str(placement),
                **{"planned, GiB": ram_bytes(Workload(config, plan, BF16), placement) / GIB},
            )


def _row(
    bench: Bench, what: str, caches: tuple[int, int, int], before: Held, held: Held, seconds: float | None
) -> None:
    """`caches`: their layers, bytes, and how many of these are pinned."""
    layers, asked, pinned = caches
    grown = {name: (held.process[name] - before.process.get(name, 0)) / GIB for name in held.process}
    bench.record.row(
        TABLE,
        what=what,
        layers=layers,
        **{"asked for, GiB": asked / GIB},
        **{"pinned, GiB": pinned / GIB},
        **{"PyTorch's host allocator holds, GiB": None if held.allocator is None else held.allocator / GIB},
        **{f"{name}, more, GiB": size for name, size in grown.items()},
        **{"free RAM, less, GiB": (before.free - held.free) / GIB, "seconds": seconds},
    )


def give_back(bench: Bench) -> None:
    """What is cached is given back where PyTorch can, so that later steps find it free."""
    empty = getattr(torch._C, "_host_emptyCache", None)
    if bench.on_card and empty is not None:
        gc.collect()
        empty()


def locked_limit() -> str:
    """What the system allows a process to lock; CUDA's pinned memory does not count against it on Linux."""
    try:
        import resource
    except ImportError:
        return "unknown"
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return "unlimited" if soft == resource.RLIM_INFINITY else f"{soft / 2**20:.0f} MiB"
