"""Part 4: where does the time go? Kernels of an evaluation, shares by kind, and the gaps between them."""

from collections import defaultdict
from collections.abc import Callable, Iterable

import torch

from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.sampling.evaluator import PlacedModel
from liveavatar_runtime.sampling.run import SamplingRequest
from liveavatar_runtime.vae import DecodeState

from . import models
from .bench import Bench, OutOfMemory
from .budget import Step
from .fast import model_of
from .fits import chosen_placement
from .running import WARM_BLOCKS
from .trace import COPIES, Event, kind_of, traced, usage

TOP = 15
BF16 = torch.bfloat16


def sampling(bench: Bench, batched: bool = False) -> None:
    """A block of the main size in steady state."""
    config, size = models.large_config(bench), models.main_size(bench)
    plan = models.plan_of(bench, size)
    placement = chosen_placement(bench, Workload(config, plan, BF16, BF16.itemsize), batched)
    executor = LocalExecutor.placed(PlacedModel(model_of(bench, "plain", BF16), bench.device), BF16, placement)
    conditions = models.random_conditions(config, plan)

    def run() -> list[Event]:
        blocks = executor.run(SamplingRequest(conditions, plan))
        try:
            for _ in range(1 if bench.tiny else WARM_BLOCKS):
                next(blocks)
            return traced(lambda: next(blocks), bench.device).device_work
        finally:
            blocks.close()

    what = f"{plan.steps} evaluations, {size[0]}x{size[1]}, {placement}"
    _told(bench, what, run)


def decoding(bench: Bench) -> None:
    """A block of frames."""
    size = models.main_size(bench)
    height, width = models.plan_of(bench, size).latent_size
    vae = models.random_vae(models.vae_config(bench), BF16, bench.device)
    latents = torch.randn(1, 16, 3, height, width, device=bench.device)

    def run() -> list[Event]:
        state = DecodeState()
        with torch.inference_mode():
            for _ in range(2):
                vae.decode_stream(latents, state)
            return traced(lambda: vae.decode_stream(latents, state), bench.device).device_work

    _told(bench, f"decoding a block, {size[0]}x{size[1]}", run)


def _told(bench: Bench, what: str, run: Callable[[], list[Event]]) -> None:
    events = bench.attempt(run)
    if isinstance(events, OutOfMemory):
        bench.record.skip(f"{what}: {events.message}")
        return
    if not events:
        bench.record.skip(f"{what}: the profiler saw no kernels")
        return
    _kernels(bench, what, events)
    _kinds(bench, what, events)


def _kernels(bench: Bench, what: str, events: list[Event]) -> None:
    """The kernels that take the most time."""
    seconds, counts = _sums(events, lambda event: event.name)
    whole = sum(seconds.values())
    for name in sorted(seconds, key=lambda n: -seconds[n])[:TOP]:
        bench.record.row(
            f"Kernels: {what}",
            kernel=name[:110],
            kind=kind_of(name),
            calls=counts[name],
            ms=1e3 * seconds[name],
            share=seconds[name] / whole,
        )


def _kinds(bench: Bench, what: str, events: list[Event]) -> None:
    def kind(event: Event) -> str:
        return "copies" if event.category in COPIES else kind_of(event.name)

    seconds, counts = _sums(events, kind)
    whole, used = sum(seconds.values()), usage(events)
    shares = {f"{name}, share": seconds.get(name, 0.0) / whole for name in ("matmul", "attention", "convolution")}
    bench.record.row(
        "Where the time goes",
        what=what,
        kernels=sum(counts.values()),
        **{"span, ms": 1e3 * used.span, "busy, ms": 1e3 * used.busy, "gaps, share": used.gap},
        **shares,
        **{"copies, share": seconds.get("copies", 0.0) / whole, "others, share": seconds.get("other", 0.0) / whole},
    )


def _sums(events: Iterable[Event], key: Callable[[Event], str]) -> tuple[dict[str, float], dict[str, int]]:
    seconds: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    for event in events:
        seconds[key(event)] += event.seconds
        counts[key(event)] += 1
    return seconds, counts


STEPS = (
    Step("sampling", 20, sampling),
    Step("decoding", 8, decoding),
    Step("sampling, all steps in one batch", 20, lambda bench: sampling(bench, batched=True)),
)
