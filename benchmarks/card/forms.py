"""Part 7: single operations of a layer in other forms, at the main size, beside the form that the layer has now.

They say what another form would save before it is built: rotary positions, modulation, gates, the FFN's activation,
attention on contiguous keys, and a whole layer compiled.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from liveavatar_runtime.dit.attention import sdpa
from liveavatar_runtime.dit.elementwise import add_gated, modulate
from liveavatar_runtime.dit.rope import RopeFactors, apply_rope, block_rope
from liveavatar_runtime.planning.workload import cache_shape

from . import models
from .bench import Bench, OutOfMemory
from .budget import Step
from .packed import make_packages_importable
from .right import difference

BF16 = torch.bfloat16
TABLE = "Operations of a layer in other forms"


@dataclass(frozen=True)
class Form:
    """One way to compute an operation; of an operation's forms the first is the one that the layer has."""

    name: str
    call: Callable[[], Tensor]


@dataclass(frozen=True)
class Shapes:
    """Sizes of a block's tokens in one layer."""

    bench: Bench
    tokens: int
    context: int
    heads: int
    head_dim: int
    ffn_dim: int

    @classmethod
    def of(cls, bench: Bench) -> "Shapes":
        config = models.large_config(bench)
        shape = cache_shape(config, models.plan_of(bench, models.main_size(bench)))
        return cls(bench, shape.block_tokens, shape.tokens, shape.heads, shape.head_dim, config.ffn_dim)

    @property
    def dim(self) -> int:
        return self.heads * self.head_dim

    def random(self, *size: int, dtype: torch.dtype = BF16) -> Tensor:
        generator = torch.Generator(self.bench.device).manual_seed(sum(size))
        return torch.randn(size, device=self.bench.device, dtype=torch.float32, generator=generator).to(dtype)


def compare(bench: Bench, operation: str, forms: Iterator[Form]) -> None:
    """Milliseconds of each form and how far its result is from the first one's."""
    expected: Tensor | None = None
    first = 0.0
    for form in forms:
        with torch.inference_mode():
            try:
                found = bench.attempt(form.call)
                if isinstance(found, OutOfMemory):
                    bench.record.skip(f"{operation}, {form.name}: {found.message}")
                    continue
                seconds = bench.median_of(form.call, rounds=30)
            except (RuntimeError, NotImplementedError) as error:
                bench.record.skip(f"{operation}, {form.name}: {str(error).splitlines()[0][:200]}")
                continue
        if expected is None:
            expected, first = found, seconds
        bench.record.row(
            TABLE,
            operation=operation,
            form=form.name,
            ms=1e3 * seconds,
            **{"of the first form": seconds / first, "relative difference": difference(found, expected)},
        )


def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.compile(function, fullgraph=True)


@cache
def _kitchen() -> bool:
    return find_spec("comfy_kitchen") is not None


def rotary(bench: Bench) -> None:
    """Of a block's queries."""
    shapes = Shapes.of(bench)
    plan = models.plan_of(bench, models.main_size(bench))
    factors = block_rope(shapes.head_dim, plan.grid, 40, 3).to(bench.device)
    compare(bench, "rotary positions of the queries", _rotary_forms(shapes, factors))


def _rotary_forms(shapes: Shapes, factors: RopeFactors) -> Iterator[Form]:
    x = shapes.random(1, shapes.tokens, shapes.heads, shapes.head_dim)
    yield Form("as it is", lambda: apply_rope(x, factors))
    yield Form("of real numbers", lambda: apply_rope(x, RopeFactors(factors.cos, factors.sin)))
    if shapes.bench.on_card:
        compiled = _compiled(apply_rope)
        yield Form("compiled", lambda: compiled(x, factors))
    if _kitchen():
        import comfy_kitchen  # pyright: ignore[reportMissingImports]

        rotation = torch.stack((factors.cos, -factors.sin, factors.sin, factors.cos), dim=-1).unflatten(-1, (2, 2))
        matrices = rotation[None]
        yield Form("comfy_kitchen", lambda: comfy_kitchen.apply_rope1(x, matrices))
        yield Form("comfy_kitchen, in place", partial(_in_place, comfy_kitchen.apply_rope1_, x, matrices))


def _in_place(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, matrices: Tensor) -> Tensor:
    """On a copy, of which the first form needs none: what the copy takes is in its time."""
    return function(x.clone(), matrices)


def modulation(bench: Bench) -> None:
    """The norm before self-attention with its shift and scale."""
    compare(bench, "norm, scale and shift", _modulation_forms(Shapes.of(bench)))


def _modulation_forms(shapes: Shapes) -> Iterator[Form]:
    hidden = shapes.random(1, shapes.tokens, shapes.dim)
    shift, scale = (0.1 * shapes.random(1, count, shapes.dim, dtype=torch.float32)[:, :1] for count in (1, 2))

    def now(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return modulate(F.layer_norm(x, x.shape[-1:], eps=1e-6), shift, 1 + scale, x.dtype)

    def in_steps(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return (F.layer_norm(x, x.shape[-1:], eps=1e-6).float() * (1 + scale) + shift).to(x.dtype)

    def in_fp32(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale).to(x.dtype)

    def in_dtype(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return torch.addcmul(shift.to(x.dtype), F.layer_norm(x, x.shape[-1:], eps=1e-6), (1 + scale).to(x.dtype))

    for name, function in (
        ("as it is", now),
        ("in steps", in_steps),
        ("addcmul in fp32, rounded after it", in_fp32),
        ("addcmul in bf16", in_dtype),
    ):
        yield Form(name, partial(function, hidden, shift, scale))
    if shapes.bench.on_card:
        yield Form("compiled", partial(_compiled(now), hidden, shift, scale))
    if _kitchen():
        import comfy_kitchen  # pyright: ignore[reportMissingImports]

        both = scale.to(BF16), shift.to(BF16)
        yield Form("comfy_kitchen.adaln", lambda: comfy_kitchen.adaln(hidden, *both))


def gates(bench: Bench) -> None:
    """The residual after self-attention."""
    shapes = Shapes.of(bench)
    hidden, x = shapes.random(1, shapes.tokens, shapes.dim), shapes.random(1, shapes.tokens + 1, shapes.dim)[:, 1:]
    gate = shapes.random(1, 1, shapes.dim, dtype=torch.float32)

    def forms() -> Iterator[Form]:
        yield Form("as it is, fp32 kept", lambda: add_gated(hidden, x, gate, torch.float32))
        yield Form("as it is, rounded", lambda: add_gated(hidden, x, gate, BF16))
        yield Form("in steps, fp32 kept", lambda: hidden + x * gate)
        yield Form("addcmul, fp32 kept", lambda: torch.addcmul(hidden.float(), x.float(), gate))
        yield Form("addcmul in bf16", lambda: torch.addcmul(hidden, x, gate.to(BF16)))
        if bench.on_card:
            compiled = _compiled(lambda h, y, g: h + y * g)
            yield Form("compiled, fp32 kept", lambda: compiled(hidden, x, gate))

    compare(bench, "gate and residual", forms())


def activation(bench: Bench) -> None:
    """The FFN's first product with its activation."""
    shapes = Shapes.of(bench)
    x = shapes.random(shapes.tokens, shapes.dim)
    weight = shapes.random(shapes.ffn_dim, shapes.dim) * shapes.dim**-0.5
    bias = shapes.random(shapes.ffn_dim)

    def forms() -> Iterator[Form]:
        yield Form("as it is", lambda: F.gelu(F.linear(x, weight, bias), approximate="tanh"))
        yield Form("product alone", lambda: F.linear(x, weight, bias))
        if bench.on_card:
            fused = getattr(torch, "_addmm_activation")  # noqa: B009
            yield Form("in the product's epilogue", lambda: fused(bias, x, weight.t(), use_gelu=True))
            compiled = _compiled(lambda y: F.gelu(F.linear(y, weight, bias), approximate="tanh"))
            yield Form("compiled", lambda: compiled(x))

    compare(bench, "first product of the FFN with GELU", forms())


def layouts(bench: Bench) -> None:
    """Attention over keys and values [tokens, heads, head_dim], as the cache has them, and with the heads first."""
    shapes = Shapes.of(bench)
    q = shapes.random(1, shapes.tokens, shapes.heads, shapes.head_dim).transpose(1, 2)
    k, v = (shapes.random(1, shapes.context + n, shapes.heads, shapes.head_dim)[:, n:].transpose(1, 2) for n in (0, 1))
    first_k, first_v = k.contiguous(), v.contiguous()

    def forms() -> Iterator[Form]:
        yield Form("as it is", lambda: sdpa(q, k, v))
        yield Form("heads first", lambda: sdpa(q, first_k, first_v))
        if bench.on_card:
            from torch.nn.attention import SDPBackend, sdpa_kernel

            for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
                for name, keys, values in (("as it is", k, v), ("heads first", first_k, first_v)):
                    yield Form(f"{backend.name}, {name}", partial(_with_backend, sdpa_kernel, backend, q, keys, values))

    compare(bench, "attention over a full ring", forms())


def _with_backend(choose: Callable[..., object], backend: object, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with choose(backend):  # pyright: ignore[reportGeneralTypeIssues]
        return sdpa(q, k, v)


def prepare(bench: Bench) -> None:
    if bench.comfyui is not None:
        make_packages_importable(bench.comfyui)
    if not _kitchen():
        bench.record.skip("comfy_kitchen is not here; benchmarks.card.pack packs its kernels that are sources")
        return
    import comfy_kitchen  # pyright: ignore[reportMissingImports]

    for name, told in comfy_kitchen.list_backends().items():
        bench.record.fact(f"comfy_kitchen's {name}", "there" if told["available"] else told["unavailable_reason"])


STEPS = (
    Step("comfy_kitchen", 2, prepare),
    Step("rotary positions", 6, rotary),
    Step("norm, scale and shift", 6, modulation),
    Step("gate and residual", 4, gates),
    Step("activation", 4, activation),
    Step("layout of the cache", 4, layouts),
)
