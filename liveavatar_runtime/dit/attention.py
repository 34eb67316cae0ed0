"""Attention of the transformer: an opaque kernel, and the projections around it.

The kernel is any callable over q [B, H, Lq, D], k and v [B, H, Lk, D] that returns [B, H, Lq, D], so that every
backend (SDPA, SageAttention, ComfyUI's choice) can stand in. Functions here read sub-modules by their original names
only (q, k, v, o, norm_q, norm_k), because the module tree may be one that was adopted from another program.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

AttentionKernel = Callable[[Tensor, Tensor, Tensor], Tensor]


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


class AttentionModules(nn.Module):
    """Weights of one attention: q, k, v, o projections and the RMS norms of queries and keys over all heads."""

    def __init__(self, dim: int, eps: float, operations: Any, **factory: Any) -> None:
        super().__init__()
        for name in ("q", "k", "v", "o"):
            self.add_module(name, operations.Linear(dim, dim, **factory))
        self.norm_q = operations.RMSNorm(dim, eps=eps, **factory)
        self.norm_k = operations.RMSNorm(dim, eps=eps, **factory)


@dataclass(frozen=True)
class KeysValues:
    """Keys and values, each [B, tokens, heads, head_dim]."""

    k: Tensor
    v: Tensor


def split_heads(x: Tensor, head_dim: int) -> Tensor:
    return x.unflatten(-1, (-1, head_dim))


def project_queries(modules: Any, x: Tensor, head_dim: int) -> Tensor:
    """x [B, L, dim] -> normalised queries [B, L, heads, head_dim]."""
    return split_heads(modules.norm_q(modules.q(x)), head_dim)


def project_keys_values(modules: Any, x: Tensor, head_dim: int) -> KeysValues:
    """x [B, L, dim] -> normalised keys and plain values."""
    return KeysValues(split_heads(modules.norm_k(modules.k(x)), head_dim), split_heads(modules.v(x), head_dim))


def attention(queries: Tensor, context: KeysValues, kernel: AttentionKernel) -> Tensor:
    """queries [B, Lq, heads, head_dim] over the context -> [B, Lq, dim], before the output projection."""
    out = kernel(queries.transpose(1, 2), context.k.transpose(1, 2), context.v.transpose(1, 2))
    return out.transpose(1, 2).flatten(2)


def cross_attention(modules: Any, x: Tensor, context: KeysValues, head_dim: int, kernel: AttentionKernel) -> Tensor:
    """x [B, Lq, dim] over a context of B or 1 rows -> output projection [B, Lq, dim]."""
    keys, values = (t.expand(len(x), -1, -1, -1) for t in (context.k, context.v))
    return modules.o(attention(project_queries(modules, x, head_dim), KeysValues(keys, values), kernel))
