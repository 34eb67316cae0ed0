"""Bytes and kernels of an evaluation and of a block's decoding, counted on no device: python -m benchmarks.traffic

On the meta device tensors have sizes and no numbers, so the real shapes of the 14B model take a second. What is
counted are operations that only move numbers: no views, no matrix products, no attention, no convolutions. An
operation reads its inputs and writes its outputs once; a norm, and whatever a card computes in one kernel, is one.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from liveavatar_runtime.config import WAN_S2V_14B, AvatarConfig
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.dit.placement import ON_DEVICE, Placement
from liveavatar_runtime.sampling.conditions import Conditions
from liveavatar_runtime.sampling.evaluator import Evaluator, PlacedModel, cache_maker
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import SamplingRequest
from liveavatar_runtime.vae import WAN_2_1, DecodeState, VaeConfig, WanVAE
from liveavatar_runtime.vae.layout import memory_format

META = torch.device("meta")
BLOCK = 5
"""The first whose ring is full and whose sink is in place already."""
PRODUCTS = {
    "aten::mm",
    "aten::addmm",
    "aten::bmm",
    "aten::baddbmm",
    "aten::linear",
    "aten::convolution",
    "aten::mkldnn_convolution",
}
SAME_MEMORY = {"aten::_unsafe_view", "aten::_reshape_alias", "aten::empty", "aten::empty_like", "aten::new_empty"}
"""Beside views: what PyTorch writes nothing for."""
ONLY_WRITTEN = {"aten::copy_", "aten::zero_", "aten::fill_"}
"""In place, without reading what was there."""
ATTENTION: set[Any] = {F.scaled_dot_product_attention}
ONE_KERNEL: set[Any] = {torch.rms_norm, F.rms_norm, torch.linalg.vector_norm}
"""Decomposed on the meta device, one kernel on a card."""


@dataclass
class Traffic:
    """`kernels` and `read_and_written` (bytes) by the name of the operation."""

    kernels: Counter[str] = field(default_factory=Counter)
    read_and_written: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, tensors: list[Tensor]) -> None:
        self.kernels[name] += 1
        self.read_and_written[name] += sum(map(_bytes, tensors))

    @property
    def gigabytes(self) -> float:
        return sum(self.read_and_written.values()) / 1e9

    @property
    def count(self) -> int:
        return sum(self.kernels.values())


def _bytes(tensor: Tensor) -> int:
    """Of the numbers that are there: an expanded dimension is read once."""
    sizes = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    count = 1
    for size in sizes:
        count *= size
    return count * tensor.itemsize


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values if isinstance(values, (list, tuple)) else (values,):
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _lying_as(found: Tensor, x: Tensor) -> Tensor:
    """A convolution's output as a card gives it: the meta device forgets that channels lay last."""
    return torch.empty(found.shape, dtype=found.dtype, device=META).contiguous(memory_format=memory_format(x))


class _Operations(TorchDispatchMode):
    """Counts what reaches the device."""

    def __init__(self, traffic: Traffic) -> None:
        super().__init__()
        self.traffic, self.silent = traffic, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        schema = func._schema
        if schema.name == "aten::convolution":
            found = _lying_as(found, args[0])
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)
        if not self.silent and not view and schema.name not in PRODUCTS | SAME_MEMORY:
            given = list(_tensors([*args, *(kwargs or {}).values()]))
            self.traffic.add(schema.name, (given[1:] if schema.name in ONLY_WRITTEN else given) + list(_tensors(found)))
        return found


class _Whole(TorchFunctionMode):
    """Counts as one what PyTorch takes apart only because the device is no real one."""

    def __init__(self, operations: _Operations) -> None:
        super().__init__()
        self.operations = operations

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.operations.silent or func not in ATTENTION | ONE_KERNEL:
            return func(*args, **(kwargs or {}))
        self.operations.silent = True
        found = func(*args, **(kwargs or {}))
        self.operations.silent = False
        if func in ONE_KERNEL:
            tensors = [*_tensors([*args, *(kwargs or {}).values()]), *_tensors(found)]
            self.operations.traffic.add(func.__name__, tensors)
        return found


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Of the sizes and the layout that a card's kernel gives: that of the queries."""
    return torch.empty_like(q)


@contextmanager
def counted() -> Iterator[Traffic]:
    """What is computed inside, on the meta device."""
    operations = _Operations(Traffic())
    with operations, _Whole(operations):
        yield operations.traffic


@dataclass(frozen=True)
class Silence:
    """A voice that nobody hears, of the right size."""

    config: AvatarConfig

    def frames(self, first: int, count: int) -> Tensor:
        return torch.empty(1, self.config.audio_layers, self.config.audio_dim, count, device=META)


def conditions_of(config: AvatarConfig, plan: ClipPlan) -> Conditions:
    height, width = plan.latent_size
    return Conditions(
        text=torch.empty(128, config.text_dim, device=META),
        reference=torch.empty(16, 1, height, width, device=META),
        motion=torch.empty(16, config.motion_frames[1], height, width, device=META),
        audio=Silence(config),
    )


@torch.no_grad()
def evaluation(
    placement: Placement = ON_DEVICE, size: tuple[int, int] = (688, 368), config: AvatarConfig = WAN_S2V_14B
) -> Traffic:
    """Of one evaluation, or one batch of them, in bf16, in steady state over a full ring."""
    plan = ClipPlan(num_clip=10, width=size[0], height=size[1], keep_aspect=False)
    model = CausalWanS2V(config, device=META, dtype=torch.bfloat16, attention=attention).eval().requires_grad_(False)
    request = SamplingRequest(conditions_of(config, plan), plan)
    evaluator = Evaluator(PlacedModel(model, META), request, torch.bfloat16, cache_maker(placement))
    evaluator.condition(evaluator.embed_conditions())
    evaluator.fill_sink(0, evaluator.embed_sink(request.conditions.reference))
    at_once = plan.steps if placement.batched else 1
    for newest in range(BLOCK - 1, BLOCK + 1):
        blocks = range(newest - at_once + 1, newest + 1)
        for block in blocks:
            if not evaluator.hears(block):
                evaluator.hear(block, evaluator.embed_voice(block))
        latents = [torch.empty(16, 3, *plan.latent_size, device=META) for _ in blocks]
        with counted() as traffic:
            rows = evaluator.rows([(block, newest - block) for block in blocks])
            hidden = evaluator.run_layers(evaluator.embed(latents, blocks), rows)
            evaluator.velocities(hidden, rows)
    return traffic


@torch.no_grad()
def decoding(size: tuple[int, int] = (688, 368), config: VaeConfig = WAN_2_1) -> Traffic:
    """Of a block of 3 latent frames in bf16, with all that came before it known."""
    width, height = (side // config.spatial_stride for side in size)
    vae = WanVAE(config, device=META, dtype=torch.bfloat16).eval().requires_grad_(False)
    state = DecodeState()
    for _ in range(2):
        with counted() as traffic:
            vae.decode_stream(torch.empty(1, config.z_dim, 3, height, width, device=META), state)
    return traffic


def report(name: str, traffic: Traffic, most: int = 12) -> str:
    lines = [f"{name}: {traffic.gigabytes:.1f} GB in {traffic.count} kernels"]
    for operation, size in traffic.read_and_written.most_common(most):
        lines.append(f"  {size / 1e9:8.2f} GB {traffic.kernels[operation]:6d}  {operation}")
    return "\n".join(lines)


MEASURED: dict[str, Callable[[], Traffic]] = {
    "an evaluation at 688x368": evaluation,
    "a batch of 4": partial(evaluation, Placement(batched=True)),
    "decoding a block at 688x368": decoding,
}

if __name__ == "__main__":
    for title, count in MEASURED.items():
        print(report(title, count()))
