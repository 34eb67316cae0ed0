"""Part 1: is it right? The demo's latents and frames on the card against the processor's, and all ways to run a model
against each other.

Tolerances come from the arithmetic: what bf16 differs from fp32 on the processor is rounding, and on a card it may
differ by twice as much. For fp16 it is scaled to fp16's step, for fp32 to fp32's, there times the square root of the
terms that a product adds up in it (half precision is added up in fp32).
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from torch import Tensor

from liveavatar_runtime.config import DEMO
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.dit.placement import Placement
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.executors.pipelines import LayerPipelineExecutor, TimestepPipelineExecutor
from liveavatar_runtime.pipeline.stage_model import replicate, spread_layers
from liveavatar_runtime.planning.partition import split_evenly
from liveavatar_runtime.sampling.conditions import Conditions
from liveavatar_runtime.sampling.evaluator import PlacedModel, cache_maker
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import Executor
from liveavatar_runtime.vae import PlacedVAE, WanVAE, from_model_space
from liveavatar_runtime.vae.online_decoder import OnlineDecoder

from . import models, syncs
from .bench import Bench, dtype_name
from .budget import Step
from .running import exact_float32, latents_of

CPU = torch.device("cpu")
FULL, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
TF32_EPS = 2.0**-10
TWICE = 2.0
"""Two roundings of one size, of which neither is the truth."""
SPARE = 16.0
"""For fp32: processors add up in another order and have other functions (exp, tanh) in every layer and step. What tf32
would do to a result is about thirty times above that."""


def difference(found: Tensor, reference: Tensor) -> float:
    """Relative to the reference, in the Euclidean norm; infinite where something is not finite."""
    found, reference = found.double(), reference.double()
    if not found.isfinite().all():
        return float("inf")
    return float((found - reference).norm() / reference.norm())


@dataclass(frozen=True)
class Reference:
    """The processor's result in fp32, and how much that in bf16 differs from it, which is rounding alone."""

    exact: Tensor
    rounding: float
    terms: int

    def tolerance(self, dtype: torch.dtype, tf32: bool = False) -> float:
        step = TF32_EPS if tf32 else torch.finfo(dtype).eps
        scaled = self.rounding * step / torch.finfo(BF16).eps
        return SPARE * scaled * self.terms**0.5 if dtype == FULL and not tf32 else TWICE * scaled


def reference_of(make: Callable[[torch.dtype], Tensor], terms: int) -> Reference:
    """`make`: the processor's result in a type; `terms` that the longest product adds up."""
    exact = make(FULL)
    return Reference(exact, difference(make(BF16), exact), terms)


def agree(bench: Bench, name: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
    apart = difference(found, expected)
    same = "equal bit for bit" if torch.equal(found, expected) else f"relative difference {apart:.2e}"
    bench.record.check(name, apart <= tolerance, f"{same}, allowed {tolerance:.2e}")


def types(bench: Bench) -> tuple[torch.dtype, ...]:
    """Without fp16 on a processor, where it takes minutes."""
    return (FULL, BF16, FP16) if bench.on_card else (FULL, BF16)


def demo(bench: Bench) -> models.Demo:
    """Two clips: the picture is renewed, and unless it is tiny, the ring is overwritten."""
    return bench.shared("demo", lambda: models.Demo.load(bench.tiny))


def demo_reference(bench: Bench) -> Reference:
    def latents(dtype: torch.dtype) -> Tensor:
        ready, model = demo(bench), models.demo_model(CPU, dtype)
        return latents_of(LocalExecutor(model, CPU, dtype), ready.conditions, ready.plan)

    return bench.shared("demo reference", lambda: reference_of(latents, DEMO.ffn_dim))


def demo_latents(bench: Bench) -> None:
    """The card against the processor in every type."""
    ready, reference = demo(bench), demo_reference(bench)
    for dtype in types(bench):
        executor = LocalExecutor(models.demo_model(bench.device, dtype), bench.device, dtype)
        with exact_float32():
            found = latents_of(executor, ready.conditions, ready.plan)
        name = f"demo's latents in {dtype_name(dtype)} as the processor's in fp32"
        agree(bench, name, found, reference.exact, reference.tolerance(dtype))


@dataclass(frozen=True)
class Way:
    """One way to run a model; `exact`: whether caches are kept in the model's type."""

    name: str
    executor: Executor
    exact: bool


def ways(model: CausalWanS2V, device: torch.device, dtype: torch.dtype) -> Iterator[Way]:
    """Every place for the caches, sequential and batched, and both pipelines with two stages on one device."""
    layers = model.config.num_layers
    places = (Placement(), Placement("ram"), Placement("ram", device_layers=layers // 2))
    places += (Placement("device", "fp8"), Placement("ram", "fp8"), Placement("ram", "fp8", device_layers=layers // 2))
    for batched, place in product((False, True), places):
        placement = Placement(place.kv_cache, place.kv_dtype, batched, place.device_layers)
        executor = LocalExecutor.placed(PlacedModel(model, device), dtype, placement)
        yield Way(str(placement), executor, place.kv_dtype == "model")
    split, devices = split_evenly(layers, 2), [device, device]
    for place in (Placement(), Placement("ram")):
        caches = cache_maker(place)
        by_layers = LayerPipelineExecutor(spread_layers(model, split, devices), split, dtype, caches)
        yield Way(f"layer_pipeline on one device twice, {place}", by_layers, True)
        by_steps = TimestepPipelineExecutor(replicate(model, devices), dtype, caches)
        yield Way(f"timestep_pipeline on one device twice, {place}", by_steps, True)


def demo_ways(bench: Bench, dtype: torch.dtype) -> None:
    """All ways to run the demo on the card against the plain one; fp8 caches against each other."""
    ready, reference = demo(bench), demo_reference(bench)
    model = models.demo_model(bench.device, dtype)
    with exact_float32():
        plain, in_fp8 = None, None
        for way in ways(model, bench.device, dtype):
            found = latents_of(way.executor, ready.conditions, ready.plan)
            if plain is None:
                plain = found
                continue
            if not way.exact and in_fp8 is None:
                in_fp8 = found
                _fp8_against_processor(bench, found, plain, dtype)
                continue
            expected = plain if way.exact or in_fp8 is None else in_fp8
            # What is rounded to fp8 may fall to the other side of a step, which fp8's own rounding covers.
            tolerance = reference.tolerance(dtype) + difference(expected, plain)
            agree(bench, f"demo, {dtype_name(dtype)}: {way.name}", found, expected, tolerance)


def _fp8_against_processor(bench: Bench, found: Tensor, plain: Tensor, dtype: torch.dtype) -> None:
    """Caches in fp8 may change the latents by twice what they change on the processor, in fp32."""
    ready, reference = demo(bench), demo_reference(bench)

    def on_processor() -> float:
        executor = LocalExecutor.placed(
            PlacedModel(models.demo_model(CPU, FULL), CPU), FULL, Placement("device", "fp8")
        )
        return difference(latents_of(executor, ready.conditions, ready.plan), reference.exact)

    allowed = TWICE * bench.shared("fp8 on the processor", on_processor) + reference.tolerance(dtype)
    name = f"demo, {dtype_name(dtype)}: caches in fp8 change the latents no more than on the processor"
    agree(bench, name, found, plain, allowed)


def wide_ways(bench: Bench) -> None:
    """The same with four layers of the 14B model's width, in bf16: copies then take long enough to meet."""
    config, size = models.wide_config(bench), models.sizes(bench)[0]
    plan = models.plan_of(bench, size, infer_frames=12)
    blocks, conditions = 2 if bench.tiny else 7, models.random_conditions(config, plan)
    plan = plan.until(blocks)

    model = models.random_model(config, BF16, bench.device)
    rounding = rounding_of(bench, model, conditions, plan, blocks)
    found = [(way, latents_of(way.executor, conditions, plan)) for way in ways(model, bench.device, BF16)]
    in_fp8 = next(latents for way, latents in found if not way.exact)
    for way, latents in found[1:]:
        expected = found[0][1] if way.exact else in_fp8
        agree(bench, f"14B width, bf16: {way.name}", latents, expected, TWICE * rounding)
    again = latents_of(found[0][0].executor, conditions, plan)
    agree(bench, "14B width, bf16: the same run again", again, found[0][1], 0.0)


def rounding_of(bench: Bench, model: CausalWanS2V, conditions: Conditions, plan: ClipPlan, blocks: int) -> float:
    """How much a model's latents in bf16 differ from those with the same weights in fp32, on the device."""
    rounded = latents_of(LocalExecutor(model, bench.device, BF16), conditions, plan, blocks)
    exact = copy.deepcopy(model).float()
    with exact_float32():
        return difference(rounded, latents_of(LocalExecutor(exact, bench.device, FULL), conditions, plan, blocks))


def _frames(vae: WanVAE, device: torch.device, dtype: torch.dtype, ready: models.Demo, latents: Tensor) -> Tensor:
    decoder = OnlineDecoder(PlacedVAE(vae, device, dtype), ready.priming, "hold")
    return torch.cat([decoder.decode(block) for block in latents.split(3, dim=1)], dim=1)


def vae_frames(bench: Bench) -> None:
    """The demo's frames from the streaming decoder on the card against the processor; streaming against at once."""
    ready, latents = demo(bench), demo_reference(bench).exact
    reference = reference_of(
        lambda dtype: _frames(models.demo_vae(CPU, dtype), CPU, dtype, ready, latents),
        terms=27 * models.demo_vae(CPU, FULL).config.dim * 4,
    )
    for dtype, tf32 in ((FULL, True), *((dtype, False) for dtype in types(bench))):
        vae = models.demo_vae(bench.device, dtype)
        with nullcontext() if tf32 else exact_float32():
            found = _frames(vae, bench.device, dtype, ready, latents)
        name = f"frames in {dtype_name(dtype)}{' with tf32' if tf32 else ''} as the processor's in fp32"
        agree(bench, name, found, reference.exact, reference.tolerance(dtype, tf32))
    _streaming_as_at_once(bench, ready, latents, reference.tolerance(FULL))


def _streaming_as_at_once(bench: Bench, ready: models.Demo, latents: Tensor, tolerance: float) -> None:
    vae = models.demo_vae(bench.device, FULL)
    whole = from_model_space(torch.cat([ready.priming, latents], dim=1))[None].to(bench.device)
    with exact_float32(), torch.inference_mode():
        at_once = vae.decode(whole)[0].clamp(-1, 1).cpu()
        streamed = _frames(vae, bench.device, FULL, ready, latents)
    # The first three frames are held, see OnlineDecoder.
    frames = streamed.shape[1] - 3
    agree(bench, "frames streamed as decoded at once", streamed[:, 3:], at_once[:, -frames:], tolerance)


STEPS = (
    Step("demo's latents", 20, demo_latents, checks=True),
    Step("host synchronisations", 10, syncs.count_syncs, checks=True),
    Step("demo, every way, bf16", 25, partial(demo_ways, dtype=BF16), checks=True),
    Step("streaming VAE", 15, vae_frames, checks=True),
    Step("14B width, every way", 25, wide_ways, checks=True),
    Step("demo, every way, fp32", 20, partial(demo_ways, dtype=FULL), checks=True),
)
