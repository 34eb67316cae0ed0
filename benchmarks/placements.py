"""Each way to keep the caches, with random weights: time, memory and bytes moved against the memory plan.

    python -m benchmarks.placements                       the 14B model's shapes in bf16 on the first GPU
    python -m benchmarks.placements --size demo           the demo model's on the processor

For a GPU it needs room for the weights (14B: 30.4 GiB) and a block's work; what does not fit is noted as such. Peaks
are those of PyTorch's allocator, so there are none on a processor.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from benchmarks.card.running import Caches
from liveavatar_runtime.config import DEMO, WAN_S2V_14B, AvatarConfig
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.dit.placement import Placement
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.planning.memory import cache_traffic, working_bytes
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.sampling.conditions import Conditions
from liveavatar_runtime.sampling.evaluator import PlacedModel
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import SamplingRequest

GIB = 2**30
PLANS = {
    "14b": (WAN_S2V_14B, ClipPlan(num_clip=100, width=688, height=368, keep_aspect=False)),
    "demo": (DEMO, ClipPlan(num_clip=100, width=64, height=64, keep_aspect=False)),
}
WARM_BLOCKS = 5
"""The ring is full then, and every step has its sink."""


@dataclass(frozen=True)
class Silence:
    config: AvatarConfig

    def frames(self, first: int, count: int) -> Tensor:
        return torch.zeros(1, self.config.audio_layers, self.config.audio_dim, count)


@dataclass(frozen=True)
class Measured:
    """Seconds of a block; peak bytes on the device beside the weights (None on a processor); bytes moved a block."""

    seconds: float
    peak: int | None
    moved: int


def random_model(config: AvatarConfig, dtype: torch.dtype, device: torch.device) -> CausalWanS2V:
    model = CausalWanS2V(config, device="meta", dtype=dtype).to_empty(device=device)
    for parameter in model.parameters():
        parameter.data.normal_(0.0, 0.02)
    return model.eval().requires_grad_(False)


def random_conditions(config: AvatarConfig, plan: ClipPlan) -> Conditions:
    height, width = plan.latent_size
    return Conditions(
        text=torch.randn(128, config.text_dim),
        reference=torch.randn(16, 1, height, width),
        motion=torch.randn(16, config.motion_frames[1], height, width),
        audio=Silence(config),
    )


def measure(executor: LocalExecutor, conditions: Conditions, plan: ClipPlan, blocks: int) -> Measured:
    """The median block once the ring is full."""
    device, caches = executor.device, Caches(executor.make_cache)
    on_card = device.type == "cuda"
    weights = torch.cuda.memory_allocated(device) if on_card else 0
    if on_card:
        torch.cuda.reset_peak_memory_stats(device)
    run = replace(executor, make_cache=caches).run(SamplingRequest(conditions, plan))
    try:
        for _ in range(WARM_BLOCKS):
            next(run)
        times, before = [], caches.moved
        for _ in range(blocks):
            start = time.perf_counter()
            # Its latents are on the CPU, so the device has finished.
            next(run)
            times.append(time.perf_counter() - start)
    finally:
        run.close()
    peak = torch.cuda.max_memory_allocated(device) - weights if on_card else None
    return Measured(statistics.median(times), peak, (caches.moved - before) // blocks)


def row(placement: Placement, work: Workload, found: Measured | None) -> str:
    planned = working_bytes(work, placement)
    moved = sum(cache_traffic(work, placement))
    cells = [str(placement), f"{planned / GIB:.3f}"]
    if found is None:
        return f"| {' | '.join(cells)} | out of memory | - | {moved / GIB:.3f} | - |"
    peak = "-" if found.peak is None else f"{found.peak / GIB:.3f} ({found.peak / planned:.2f})"
    cells += [peak, f"{1000 * found.seconds / work.plan.steps:.1f}", f"{moved / GIB:.3f}", f"{found.moved / GIB:.3f}"]
    return f"| {' | '.join(cells)} |"


def main(arguments: list[str] | None = None, write: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(PLANS), default="14b")
    parser.add_argument("--blocks", type=int, default=5, help="blocks to measure, after the ring is full")
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"])
    options = parser.parse_args(arguments)
    config, plan = PLANS[options.size]
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, options.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    torch.manual_seed(0)
    with torch.inference_mode():
        model, conditions = random_model(config, dtype, device), random_conditions(config, plan)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"
    write(f"{options.size} in {dtype} on {name}, {plan.width}x{plan.height}, {plan.steps} steps, GiB\n")
    write("| caches and schedule | planned | peak (of planned) | ms an evaluation | moved a block, planned | moved |")
    write("| --- | --- | --- | --- | --- | --- |")
    for batched, place, stored in product((False, True), ("device", "ram"), ("model", "fp8")):
        placement = Placement(place, stored, batched)
        executor = LocalExecutor.placed(PlacedModel(model, device), dtype, placement)
        try:
            found = measure(executor, conditions, plan, options.blocks)
        except torch.cuda.OutOfMemoryError:
            found = None
        write(row(placement, Workload(config, plan, dtype), found))
        if device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
