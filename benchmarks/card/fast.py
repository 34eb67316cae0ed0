"""Part 3: is it fast? Milliseconds of an evaluation in every way, end to end with decoding beside it, and how far from
what the planner says."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.dit.placement import ON_DEVICE, Placement
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.planning.memory import cache_traffic, ram_bytes, working_bytes
from liveavatar_runtime.planning.sample_model import measure_parts
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.sampling.evaluator import PlacedModel

from . import decoding, host_memory, models, rates
from .bench import GIB, Bench, OutOfMemory, dtype_name
from .budget import Step
from .fits import check_weights, chosen_placement, usable
from .predicted import predicted_card
from .right import TWICE, agree, rounding_of
from .running import Steady, latents_of, steady

BF16, FP16 = torch.bfloat16, torch.float16
EVALUATIONS = 20
"""That a median is of."""
EVALUATION_TABLE = "An evaluation"
CACHES_TABLE = "Places for the caches"


def model_of(bench: Bench, weights: str, dtype: torch.dtype) -> CausalWanS2V:
    """The large model; there is one at a time. `weights`: a key of models.OPERATIONS or "plain"."""
    name = f"model {weights} {dtype}"
    for other in [kept for kept in bench.kept if kept.startswith("model ") and kept != name]:
        bench.forget(other)
    check_weights(bench, 1.0 if weights != "plain" else dtype.itemsize)
    return bench.shared(name, lambda: models.random_model(models.large_config(bench), dtype, bench.device, weights))


def blocks_for(bench: Bench, steps: int, batched: bool) -> int:
    """Blocks in which so many evaluations are; of each block the first one is not counted, see `running.steady`."""
    if bench.tiny:
        return 2
    return 6 if batched else -(-EVALUATIONS // (steps - 1))


def evaluation(
    bench: Bench,
    size: tuple[int, int],
    dtype: torch.dtype = BF16,
    batched: bool = False,
    weights: str = "plain",
    compiled: bool = False,
) -> float | None:
    """Seconds of an evaluation in steady state, with the caches where the plan puts them; None when it does not fit."""
    config, plan = models.large_config(bench), models.plan_of(bench, size)
    work = Workload(config, plan, dtype, dtype.itemsize)
    kept = work if weights == "plain" else replace(work, weight_bytes=1.0)
    placement = chosen_placement(bench, kept, batched)
    executor = LocalExecutor.placed(PlacedModel(model_of(bench, weights, dtype), bench.device), dtype, placement)
    blocks = blocks_for(bench, plan.steps, batched)

    def run() -> Steady:
        return steady(bench, executor, models.random_conditions(config, plan), plan, blocks)

    precision = dtype_name(dtype) if weights == "plain" else weights
    name = (
        f"{size[0]}x{size[1]}, {precision}, {'batched' if batched else 'sequential'}{', compiled' if compiled else ''}"
    )
    found = bench.attempt(run)
    if isinstance(found, OutOfMemory):
        bench.record.skip(f"{name}, {placement}: {found.message}")
        return None
    each = [seconds / plan.steps for seconds in found.times.blocks] if batched else found.times.evaluations
    seconds = statistics.median(each)
    flops = work.evaluation_flops(range(config.num_layers))
    bench.record.row(
        EVALUATION_TABLE,
        size=f"{size[0]}x{size[1]}",
        weights=precision,
        schedule="batched" if batched else "sequential",
        compiled="yes" if compiled else "no",
        caches=str(placement),
        ms=1e3 * seconds,
        **{"slowest, ms": 1e3 * max(each), "of": len(each)},
        **{"TFLOP/s": flops / seconds / 1e12, "share of matmul": flops / seconds / rates.matmul_rate(bench, dtype)},
        **{"block, ms": 1e3 * statistics.median(found.times.blocks)},
        finite="yes" if found.finite else "no",
    )
    predicted = flops / predicted_card(bench, rates.matmul_rate(bench, BF16)).flops
    bench.record.compare(f"an evaluation, {name}", 1e3 * predicted, 1e3 * seconds, "ms")
    if weights == "plain" and not batched and not compiled and dtype == BF16:
        # Over whole blocks, as a video needs them: what is done between two blocks is not in the evaluations.
        pace = plan.steps * flops / statistics.median(found.times.blocks)
        bench.record.rate(f"evaluation {size[0]}x{size[1]}", pace)
        if size == models.main_size(bench):
            bench.record.rate("evaluation", pace)
    return seconds


def main_evaluation(bench: Bench) -> None:
    evaluation(bench, models.main_size(bench))


def other_sizes(bench: Bench) -> None:
    for size in models.sizes(bench):
        if size != models.main_size(bench):
            evaluation(bench, size)


def batch(bench: Bench) -> None:
    evaluation(bench, models.main_size(bench), batched=True)


def other_batches(bench: Bench) -> None:
    for size in models.sizes(bench):
        if size != models.main_size(bench):
            evaluation(bench, size, batched=True)


def other_weights(bench: Bench, weights: str) -> None:
    if weights == "fp8 products" and not bench.on_card:
        bench.record.skip("products in fp8 need a card")
        return
    for batched in (False, True):
        evaluation(bench, models.main_size(bench), batched=batched, weights=weights)


def in_fp16(bench: Bench) -> None:
    evaluation(bench, models.main_size(bench), dtype=FP16)


def parts(bench: Bench) -> None:
    """What the planner's own measurement of two layers says of an evaluation."""
    config, size = models.large_config(bench), models.main_size(bench)
    work = Workload(config, models.plan_of(bench, size), BF16, BF16.itemsize)
    found = measure_parts(work, bench.device)
    bench.record.row(
        "Parts of an evaluation, as the planner measures them",
        **{"layer, ms": 1e3 * found.layer, "voice, ms": 1e3 * found.voice},
        **{"before the layers, ms": 1e3 * found.first, "after them, ms": 1e3 * found.last},
        **{"an evaluation, ms": 1e3 * found.evaluation(config)},
    )
    seconds = evaluation(bench, size)
    if seconds:
        name = f"an evaluation by the planner's own measurement, {size[0]}x{size[1]}"
        bench.record.compare(name, 1e3 * found.evaluation(config), 1e3 * seconds, "ms")


def caches(bench: Bench, placement: Placement) -> None:
    """A block's time with the caches there, and the bytes that it moves."""
    config, plan = models.large_config(bench), models.plan_of(bench, models.main_size(bench))
    pinned = ram_bytes(Workload(config, plan, BF16), placement)
    if pinned > 0.8 * host_memory.available():
        bench.record.skip(f"pins {pinned / GIB:.0f} GiB of {host_memory.available() / GIB:.0f} GiB of free RAM")
        return
    executor = LocalExecutor.placed(PlacedModel(model_of(bench, "plain", BF16), bench.device), BF16, placement)
    blocks = 2 if bench.tiny else 4
    conditions = models.random_conditions(config, plan)
    found = bench.attempt(lambda: steady(bench, executor, conditions, plan, blocks))
    if isinstance(found, OutOfMemory):
        bench.record.skip(f"{placement}: {found.message}")
        return
    seconds = statistics.median(found.times.blocks)
    planned = sum(cache_traffic(Workload(config, plan, BF16), placement))
    bench.record.row(
        CACHES_TABLE,
        caches=str(placement),
        **{"block, ms": 1e3 * seconds, "an evaluation, ms": 1e3 * seconds / plan.steps},
        **{"moved a block, GB": found.moved / 1e9, "GB/s over PCIe": found.moved / seconds / 1e9},
        **{"planned on card beside weights, GiB": working_bytes(Workload(config, plan, BF16), placement) / GIB},
        **{"planned in RAM, GiB": ram_bytes(Workload(config, plan, BF16), placement) / GIB},
    )
    if planned:
        bench.record.compare(f"bytes moved a block, {placement}", planned / 1e9, found.moved / 1e9, "GB")


def _caches(bench: Bench, placements: Sequence[Placement]) -> None:
    """One after the other; those in RAM take over what the one before had pinned, if it is of the same sizes."""
    for placement in placements:
        caches(bench, placement)
    host_memory.give_back(bench)


def half_in_ram(bench: Bench) -> None:
    layers = models.large_config(bench).num_layers
    _caches(bench, [Placement("ram", device_layers=layers // 2)])


def compiled(bench: Bench) -> None:
    """Layers through torch.compile: whether it gives the same, time to compile, and time of an evaluation."""
    if not bench.on_card:
        bench.record.skip("the compiler's code for a processor is none for a card")
        return
    bench.forget()
    _compiled_as_not(bench)
    size = models.main_size(bench)
    try:
        model_of(bench, "plain", BF16).compile_layers()
        evaluation(bench, size, compiled=True)
        evaluation(bench, size, batched=True, compiled=True)
    finally:
        # The model is not as it was: nobody else may take it for the plain one.
        bench.forget()


def _compiled_as_not(bench: Bench) -> None:
    """With a few layers of the same width, whose rounding in bf16 is known from fp32."""
    config, plan = models.wide_config(bench), models.plan_of(bench, models.main_size(bench))
    conditions = models.random_conditions(config, plan)

    def first_block() -> Tensor:
        return latents_of(LocalExecutor(model, bench.device, BF16), conditions, plan, blocks=1)

    model = models.random_model(config, BF16, bench.device)
    rounding = rounding_of(bench, model, conditions, plan, blocks=1)
    eager = first_block()
    model.compile_layers()
    start = time.perf_counter()
    found = first_block()
    bench.record.fact("seconds of a first block with compiling its layers", time.perf_counter() - start)
    agree(bench, "14B width, bf16: compiled as not compiled", found, eager, TWICE * rounding)


def cuda_graphs(bench: Bench) -> None:
    bench.record.skip("this version of the runtime captures none; the gaps between kernels tell what they would gain")


def free_share(bench: Bench) -> None:
    """What of the card is free for a program, against the share that the planner keeps back."""
    if not bench.on_card:
        bench.record.skip("a processor's memory is the system's")
        return
    free, total = torch.cuda.mem_get_info(bench.device)
    bench.record.compare("bytes that a program can fill", usable(bench) / GIB, (free + bench.held()) / GIB, "GiB")
    bench.record.fact("memory in all, GiB", total / GIB)


RAM, RAM_FP8 = Placement("ram"), Placement("ram", "fp8")
CORE = (
    Step("products", 12, rates.products),
    Step("products in fp8", 2, rates.fp8_products),
    Step("copies", 10, rates.copies),
    Step("an evaluation at the main size", 22, main_evaluation),
    Step("VAE", 20, decoding.vae_blocks),
    Step("end to end", 40, decoding.end_to_end),
    Step("attention", 10, rates.attention),
    Step("all steps in one batch", 18, batch),
    Step("free share", 1, free_share),
)
MORE = (
    Step("other sizes", 25, other_sizes),
    Step("caches in RAM", 45, partial(_caches, placements=(ON_DEVICE, RAM, replace(RAM, batched=True)))),
    Step("compiled", 60, compiled, checks=True),
    Step("fp8 weights, products in fp8", 30, partial(other_weights, weights="fp8 products")),
    Step("caches in fp8 on the card", 15, partial(_caches, placements=(Placement("device", "fp8"),))),
    Step("caches in RAM as fp8", 35, partial(_caches, placements=(RAM_FP8, replace(RAM_FP8, batched=True)))),
    Step("the planner's own measurement", 22, parts),
    Step("fp8 weights, products in bf16", 30, partial(other_weights, weights="fp8")),
    Step("half of the caches in RAM", 30, half_in_ram),
    Step("other sizes, all steps in one batch", 30, other_batches),
    Step("fp16", 20, in_fp16),
    Step("CUDA graphs", 1, cuda_graphs),
)
