"""Settings that make a plan take less or go faster, each with what it costs in quality: where all advice comes from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ..devices import AUTO
from ..planning.size_presets import FAMILIES
from ..sampling.plan import ClipPlan
from .plan_case import Case
from .table import FOR_AUTO

MODEL, SCHEDULER, SAMPLER = "Load Avatar Model", "Clip Scheduler", "DiT Sampler"
"""Nodes that have the settings."""
IN_NODE = {
    MODEL: "{name} in Load Avatar Model",
    SCHEDULER: "{name} in Clip Scheduler",
    SAMPLER: "{name} in DiT Sampler",
}
WIDGETS = {
    "size": "size {}",
    "steps": "steps {}",
    "window_blocks": "window_blocks {}",
    "kv_cache": "kv_cache {}",
    "kv_dtype": "kv_dtype {}",
    "schedule": "schedule {}",
    "precision": "precision {}",
    "executor": "executor {}",
    "devices": "devices {}",
}
"""Widgets with a value, for people."""
FP8, BF16, FP16 = "fp8_e4m3fn", "bf16", "fp16"
"""Values of `precision`."""
FP8_WEIGHT_BYTES = 1.03
"""Of a weight on average: biases, norms and scales stay wider."""

NO_COST = 0.0
OTHER_ROUNDING = 0.8
FP8_CACHES, FP8_WEIGHTS, HALF_WEIGHTS, THREE_STEPS, SHORT_WINDOW = 1.0, 2.5, 0.5, 4.0, 6.0
SMALLER, PER_AREA = 1.5, 10.0
"""Of any smaller size, and of all the picture's area."""

Values = tuple[tuple[str, str | int], ...]


@dataclass(frozen=True)
class Change:
    """New values of widgets of one node. `cost`: of its quality, against other changes; `quality`: that in a
    sentence; `published`: a gain that others measured and that no plan can tell."""

    node: str
    values: Values
    cost: float
    quality: str
    published: str = ""

    @property
    def setting(self) -> str:
        """For people: the widgets with their values and where they are."""
        return IN_NODE[self.node].format(name=" and ".join(WIDGETS[name].format(value) for name, value in self.values))

    def applied(self, case: Case) -> Case:
        """The case with these values."""
        for name, value in self.values:
            case = SETTERS[name](case, value)
        return case


def _with_plan(case: Case, **fields: object) -> Case:
    return replace(case, work=replace(case.work, plan=replace(case.work.plan, **fields)))


def _set_size(case: Case, value: str | int) -> Case:
    width, height = map(int, str(value).split("x"))
    return _with_plan(case, width=width, height=height, keep_aspect=False)


def _set_caches(case: Case, **fields: object) -> Case:
    return replace(case, caches=replace(case.caches, **fields))


def _set_precision(case: Case, value: str | int) -> Case:
    """Weights of another format; one wider than the device's leaves what is computed in as it is."""
    work, name = case.work, str(value)
    bytes_each = {FP8: FP8_WEIGHT_BYTES, BF16: 2.0, FP16: 2.0}[name]
    computed = {FP8: work.dtype, BF16: torch.bfloat16, FP16: torch.float16}[name]
    counted = replace(work, stored_bytes=None, weight_bytes=bytes_each)
    size = counted.weights(work.layers)
    on_disk = size if work.on_disk_bytes else 0
    changed = replace(work, stored_bytes=size, weight_bytes=bytes_each, on_disk_bytes=on_disk, dtype=computed)
    # Weights that are to be read into RAM leave more of it there.
    waiting = size if case.weights_in_ram else 0
    freed = case.with_ram(case.free_ram + case.weights_in_ram - waiting)
    return replace(freed, work=changed, precision=name, weights_in_ram=waiting)


SETTERS = {
    "size": _set_size,
    "steps": lambda case, value: _with_plan(case, steps=value),
    "window_blocks": lambda case, value: _with_plan(case, window_blocks=value),
    "kv_cache": lambda case, value: _set_caches(case, kv_cache=value),
    "kv_dtype": lambda case, value: _set_caches(case, kv_dtype=value),
    "schedule": lambda case, value: _set_caches(case, schedule=value),
    "precision": _set_precision,
    "executor": lambda case, value: replace(case, executor=value),
    "devices": lambda case, value: case.on_all(),
}
"""What each widget changes."""


def changes_for(case: Case) -> list[list[Change]]:
    """Kinds of changes, of which a plan may take one each; in each kind the cheapest first."""
    kinds = (_cards, _cache_place, _order, _cache_format, _weight_format, _sizes, _steps, _window)
    return [found for kind in kinds if (found := list(kind(case)))]


SHARING_LAYERS = next(kind.name for kind in FOR_AUTO if kind.shares == "layers")
"""The executor that needs the least on each card."""


def _cards(case: Case) -> Iterator[Change]:
    count = len((case.every or case.machines).devices)
    if count < 2 or count > case.work.config.num_layers or (case.executor == AUTO and case.every is None):
        return
    if case.executor != SHARING_LAYERS or case.every is not None:
        values = (("executor", SHARING_LAYERS), ("devices", AUTO))
        yield Change(MODEL, values, NO_COST, "It costs no quality: every executor gives the same latents.")


def _cache_place(case: Case) -> Iterator[Change]:
    if case.caches.kv_cache != AUTO:
        quality = "It costs no quality: the latents are the same wherever the caches are."
        yield Change(SAMPLER, (("kv_cache", AUTO),), NO_COST, quality)


def _order(case: Case) -> Iterator[Change]:
    if case.caches.schedule != AUTO:
        quality = "It costs no quality: the order of work only rounds differently."
        yield Change(SAMPLER, (("schedule", AUTO),), NO_COST, quality)


def _cache_format(case: Case) -> Iterator[Change]:
    if case.caches.kv_dtype != "fp8" and "fp8" in case.ladder:
        quality = "It changes the result a little, far less than another seed does."
        yield Change(SAMPLER, (("kv_dtype", "fp8"),), FP8_CACHES, quality)


def _weight_format(case: Case) -> Iterator[Change]:
    work = case.work
    if not case.precision:
        return
    each = work.weights(work.layers) / _parameters(case)
    on_cards = all(device.kind == "cuda" for device in case.machines.devices)
    if each > 3 and on_cards:
        quality = "It costs nothing that can be seen: the model was trained in it."
        yield Change(MODEL, (("precision", BF16),), HALF_WEIGHTS, quality)
    if 1.9 < each < 3 and work.dtype == torch.bfloat16 and case.precision != FP16 and _are_geforce(case):
        quality = "It costs less than 0.2 dB, and saves no memory: both formats take 2 bytes a number."
        yield Change(MODEL, (("precision", FP16),), OTHER_ROUNDING, quality, "1.17 x as fast, as others measured it")
    if each > 1.5 and "fp8" in case.ladder:
        quality = "It costs a little detail; a file that was quantised with scales loses less."
        yield Change(MODEL, (("precision", FP8),), FP8_WEIGHTS, quality)


def _are_geforce(case: Case) -> bool:
    """Whether the cards are of the kind for which fp16 was measured to be faster than bf16."""
    return all("RTX" in device.name for device in case.machines.devices)


def _parameters(case: Case) -> int:
    work = replace(case.work, stored_bytes=None, weight_bytes=1.0)
    return work.weights(work.layers)


def smaller_presets(plan: ClipPlan) -> list[tuple[int, int]]:
    """(width, height) of presets with fewer tokens, of the plan's own kind (lying, square, upright), the largest
    first."""
    lying, square, upright = FAMILIES
    ratio = plan.width / plan.height
    family = square if 0.8 < ratio < 1.25 else lying if ratio > 1 else upright
    return sorted((s for s in family if s[0] * s[1] < plan.width * plan.height), key=lambda s: -s[0] * s[1])


def _sizes(case: Case) -> Iterator[Change]:
    plan = case.work.plan
    for width, height in smaller_presets(plan):
        less = 1 - width * height / (plan.width * plan.height)
        quality = f"It costs sharpness: {less:.0%} fewer pixels."
        yield Change(SCHEDULER, (("size", f"{width}x{height}"),), SMALLER + PER_AREA * less, quality)


def _steps(case: Case) -> Iterator[Change]:
    steps = case.work.plan.steps
    if steps > 4:
        yield Change(SCHEDULER, (("steps", 4),), HALF_WEIGHTS, "It costs nothing: the model was distilled for 4 steps.")
    if steps > 3:
        quality = "It costs a little detail: 0.008 of SSIM, as others measured it."
        yield Change(SCHEDULER, (("steps", 3),), THREE_STEPS, quality)


def _window(case: Case) -> Iterator[Change]:
    if case.work.plan.window_blocks > 2:
        quality = "It makes the movement less steady: the model looks back half as far as it was trained to."
        yield Change(SCHEDULER, (("window_blocks", 2),), SHORT_WINDOW, quality)


def applied(changes: Sequence[Change], case: Case) -> Case:
    """The case with all of them."""
    for change in changes:
        case = change.applied(case)
    return case


def widgets_of(changes: Sequence[Change]) -> Mapping[str, Mapping[str, str | int]]:
    """Node -> widget -> value, for programs."""
    found: dict[str, dict[str, str | int]] = {}
    for change in changes:
        found.setdefault(change.node, {}).update(change.values)
    return found
