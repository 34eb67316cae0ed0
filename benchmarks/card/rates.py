"""What the card can do at best: products, attention, copies. All else is a share of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from liveavatar_runtime.dit.attention import AttentionKernel
from liveavatar_runtime.dit.backends import BACKENDS, Use, resolve_attention
from liveavatar_runtime.errors import MachineError
from liveavatar_runtime.planning.machines import HOST_PCIE_5
from liveavatar_runtime.planning.workload import cache_shape

from . import models
from .bench import Bench, dtype_name
from .running import exact_float32

CUBE, TINY_CUBE = 8192, 64
COPIED = 2**30
FP8 = torch.float8_e4m3fn


def cube(bench: Bench) -> int:
    return TINY_CUBE if bench.tiny else CUBE


def matmul_rate(bench: Bench, dtype: torch.dtype) -> float:
    """Operations a second of the large product of random numbers; measured once in a process."""

    def measured() -> float:
        side = cube(bench)
        a, b = (torch.randn(side, side, device=bench.device, dtype=dtype) for _ in range(2))
        return 2 * side**3 / bench.median_of(lambda: a @ b)

    return bench.shared(f"matmul {dtype}", measured)


def products(bench: Bench) -> None:
    """In every type but fp8; fp32 without and with tf32."""
    name = f"matmul of {cube(bench)} cubed"
    for dtype in (torch.bfloat16, torch.float16):
        _row(bench, name, dtype_name(dtype), matmul_rate(bench, dtype))
        bench.record.rate(f"matmul {dtype_name(dtype)}", matmul_rate(bench, dtype))
    with exact_float32():
        _row(bench, name, "fp32", matmul_rate(bench, torch.float32))
    bench.forget(f"matmul {torch.float32}")
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        _row(bench, name, "tf32", matmul_rate(bench, torch.float32))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    bench.forget(f"matmul {torch.float32}")
    _linears(bench)


def fp8_products(bench: Bench) -> None:
    """Where the card has them; elsewhere PyTorch says why not."""
    if not bench.on_card:
        bench.record.skip("products in fp8 need a card")
        return
    side = cube(bench)
    a, b = (torch.randn(side, side, device=bench.device).to(FP8) for _ in range(2))
    one = torch.ones((), device=bench.device)

    def product() -> Tensor:
        mm = torch._scaled_mm  # pyright: ignore[reportPrivateImportUsage]
        return mm(a, b.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    _row(bench, f"matmul of {side} cubed", "fp8", 2 * side**3 / bench.median_of(product))


def _linears(bench: Bench) -> None:
    """The model's own products, at the main size: one block, and the blocks of a batch."""
    config = models.large_config(bench)
    plan = models.plan_of(bench, models.main_size(bench))
    tokens = cache_shape(config, plan).block_tokens
    for rows in (tokens, tokens * plan.steps):
        x = torch.randn(rows, config.dim, device=bench.device, dtype=torch.bfloat16)
        for width in (config.dim, config.ffn_dim):
            weight = torch.randn(width, config.dim, device=bench.device, dtype=torch.bfloat16)
            bias = torch.zeros(width, device=bench.device, dtype=torch.bfloat16)
            seconds = bench.median_of(lambda x=x, w=weight, b=bias: F.linear(x, w, b))
            _row(bench, f"Linear {rows} x {config.dim} x {width}", "bf16", 2 * rows * config.dim * width / seconds)


def _row(bench: Bench, what: str, dtype: str, flops: float) -> None:
    bench.record.row("Products and attention", what=what, dtype=dtype, **{"TFLOP/s": flops / 1e12})


def attention(bench: Bench) -> None:
    """Self-attention of a block over a full ring, with every kernel that is installed."""
    config = models.large_config(bench)
    for size in models.sizes(bench):
        shape = cache_shape(config, models.plan_of(bench, size))
        make = _maker(bench, (1, config.num_heads, 0, config.head_dim))
        q, k, v = make(shape.block_tokens), make(shape.tokens), make(shape.tokens)
        operations = 4 * shape.block_tokens * shape.tokens * config.dim
        for name, kernel in _kernels(bench, told=size == models.sizes(bench)[0]):
            try:
                seconds = bench.median_of(lambda q=q, k=k, v=v, kernel=kernel: kernel(q, k, v))
            except RuntimeError as error:
                # A kernel of PyTorch's that cannot run these shapes or on this device.
                bench.record.skip(f"attention {name}: {str(error).splitlines()[0]}")
                continue
            what = f"attention {name}, {shape.block_tokens} x {shape.tokens}, {config.num_heads} heads"
            _row(bench, what, "bf16", operations / seconds)


def _kernels(bench: Bench, told: bool) -> Iterator[tuple[str, AttentionKernel]]:
    """Those that the nodes offer, and each of PyTorch's by itself. `told`: whether missing ones are said."""
    use = Use.on(bench.device, torch.bfloat16, models.large_config(bench).head_dim)
    for name in BACKENDS:
        try:
            found = resolve_attention(name, [use])
        except MachineError as error:
            reasons = (str(error),)
        else:
            reasons = found.reasons
            if not reasons:
                yield name, found.kernel
        if reasons and told:
            bench.record.skip(f"attention {name}: {'; '.join(reasons)}")
    for backend in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION"):
        yield f"sdpa, {backend} alone", partial(_with_backend, backend)


def _with_backend(backend: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(getattr(SDPBackend, backend)):
        return F.scaled_dot_product_attention(q, k, v)


def _maker(bench: Bench, shape: tuple[int, ...]) -> Callable[[int], Tensor]:
    """Makes random [1, heads, tokens, head_dim] in bf16, laid out with the tokens first as the caches are."""
    batch, heads, _, width = shape

    def make(tokens: int) -> Tensor:
        made = torch.randn(batch, tokens, heads, width, device=bench.device, dtype=torch.bfloat16)
        return made.transpose(1, 2)

    return make


@dataclass(frozen=True)
class Copy:
    """Where from and where to; `counted`: times each byte crosses the memory that limits it."""

    name: str
    source: Tensor
    into: Tensor
    counted: int = 1


def copies(bench: Bench) -> None:
    """GB/s over PCIe with pinned and ordinary memory, and within the card."""
    if not bench.on_card:
        bench.record.skip("a processor has no copies to a card")
        return
    size = COPIED
    card, other = (torch.randint(0, 255, (size,), dtype=torch.uint8, device=bench.device) for _ in range(2))
    pinned, ordinary = torch.empty(size, dtype=torch.uint8, pin_memory=True), torch.empty(size, dtype=torch.uint8)
    ordinary.fill_(1)
    for copy in (
        Copy("RAM (pinned) to card", pinned, card),
        Copy("card to RAM (pinned)", card, pinned),
        Copy("RAM (ordinary) to card", ordinary, card),
        Copy("within the card, read and written", card, other, counted=2),
    ):
        seconds = bench.median_of(lambda c=copy: c.into.copy_(c.source, non_blocking=True), rounds=10)
        rate = copy.counted * size / seconds
        bench.record.row("Copies", what=copy.name, **{"GB/s": rate / 1e9})
        bench.record.rate(f"copy: {copy.name}", rate)
        if copy.name.startswith("RAM (pinned)"):
            bench.record.compare("PCIe 5.0 between RAM and card", HOST_PCIE_5.bandwidth / 1e9, rate / 1e9, "GB/s")
    _both_ways(bench, card, other, pinned)


def _both_ways(bench: Bench, card: Tensor, other: Tensor, pinned: Tensor) -> None:
    """A copy in and a copy out at once, as a cache in RAM does them."""
    second = torch.empty(card.numel(), dtype=torch.uint8, pin_memory=True)
    streams = [torch.cuda.Stream(bench.device) for _ in range(2)]

    def both() -> None:
        current = torch.cuda.current_stream(bench.device)
        for stream, into, source in zip(streams, (card, second), (pinned, other), strict=True):
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                into.copy_(source, non_blocking=True)
        for stream in streams:
            current.wait_stream(stream)

    seconds = bench.median_of(both, rounds=10)
    bench.record.row("Copies", what="both ways at once, pinned, sum", **{"GB/s": 2 * card.numel() / seconds / 1e9})
