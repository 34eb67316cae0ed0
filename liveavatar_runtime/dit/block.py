"""One transformer layer, as functions over its modules: causal self-attention, text cross-attention, FFN.

Arithmetic follows the original: modulation, gates and residual adds in float32, matrix products in the model's dtype.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..config import AvatarConfig
from .attention import (
    AttentionKernel,
    AttentionModules,
    KeysValues,
    attend,
    cross_attention,
    project_keys_values,
    project_queries,
)
from .kv_cache import KVCache
from .rope import RopeFactors, apply_rope


class TransformerLayer(nn.Module):
    """Weights of one layer; calling it runs one of the functions below, so that sharding hooks see the call."""

    def __init__(self, config: AvatarConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        dim, eps = config.dim, config.eps
        self.norm1 = operations.LayerNorm(dim, elementwise_affine=False, eps=eps, **factory)
        self.self_attn = AttentionModules(dim, eps, operations, **factory)
        self.norm3 = operations.LayerNorm(dim, elementwise_affine=True, eps=eps, **factory)
        self.cross_attn = AttentionModules(dim, eps, operations, **factory)
        self.norm2 = operations.LayerNorm(dim, elementwise_affine=False, eps=eps, **factory)
        self.ffn = nn.Sequential(
            operations.Linear(dim, config.ffn_dim, **factory),
            nn.GELU(approximate="tanh"),
            operations.Linear(config.ffn_dim, dim, **factory),
        )
        self.modulation = nn.Parameter(torch.randn(1, 6, dim, **factory) / dim**0.5)

    def forward(self, hidden: Tensor, modulation: Tensor, text: KeysValues, attention: "SelfAttention") -> Tensor:
        return run_layer(self, hidden, modulation, text, attention)


@dataclass(frozen=True)
class SelfAttention:
    """How self-attention of one evaluation works; `layer` counts as in the whole model."""

    layer: int
    head_dim: int
    kernel: AttentionKernel
    rope: RopeFactors
    cache: KVCache

    def keys_values(self, own: KeysValues) -> KeysValues:
        raise NotImplementedError

    def __call__(self, modules: Any, x: Tensor) -> Tensor:
        queries = apply_rope(project_queries(modules, x, self.head_dim), self.rope)
        context = self.keys_values(project_keys_values(modules, x, self.head_dim))
        return attend(modules, queries, context, self.kernel)


@dataclass(frozen=True)
class BlockAttention(SelfAttention):
    """Noisy tokens of block `block` at step `step`: attend to the sink and to the ring, their own slot included."""

    step: int
    block: int

    def keys_values(self, own: KeysValues) -> KeysValues:
        rotated = KeysValues(apply_rope(own.k, self.rope), own.v)
        return self.cache.write_block(self.layer, self.step, self.block, rotated)


@dataclass(frozen=True)
class SinkAttention(SelfAttention):
    """Sink tokens: attend to each other; their keys and values are kept."""

    def keys_values(self, own: KeysValues) -> KeysValues:
        rotated = apply_rope(own.k, self.rope)
        self.cache.store_sink(self.layer, own, rotated)
        return KeysValues(rotated, own.v)


def run_layer(layer: Any, hidden: Tensor, modulation: Tensor, text: KeysValues, attention: SelfAttention) -> Tensor:
    """hidden [B, L, dim]; modulation float32 [B, 6, dim] (one time step for all tokens) -> hidden [B, L, dim]."""
    dtype = hidden.dtype
    own = layer.modulation.to(device=modulation.device, dtype=torch.float32)
    shift_sa, scale_sa, gate_sa, shift_ffn, scale_ffn, gate_ffn = (own + modulation).split(1, dim=1)
    x = _modulate(layer.norm1(hidden), shift_sa, scale_sa).to(dtype)
    residual = hidden + attention(layer.self_attn, x) * gate_sa
    x = layer.norm3(residual.to(dtype))
    residual = residual + cross_attention(layer.cross_attn, x, text, attention.head_dim, attention.kernel)
    x = _modulate(layer.norm2(residual), shift_ffn, scale_ffn).to(dtype)
    return (residual + layer.ffn(x) * gate_ffn).to(dtype)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x.float() * (1 + scale) + shift
