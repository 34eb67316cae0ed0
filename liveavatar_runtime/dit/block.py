"""One transformer layer, as functions over its modules: causal self-attention, text cross-attention, FFN.

Arithmetic follows the original: modulation, gates and residual adds in float32, matrix products in the model's dtype.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..config import AvatarConfig
from .attention import (
    AttentionKernel,
    AttentionModules,
    KeysValues,
    attention,
    cross_attention,
    project_keys_values,
    project_queries,
)
from .elementwise import add_gated, add_to, modulate, modulation_parts
from .hooks import RowHooks
from .initial import small_weight
from .kv_cache import CacheUse, KVCache, Sink
from .rope import RopeFactors, apply_rope, turn


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
        self.modulation = nn.Parameter(small_weight(1, 6, dim, **factory))

    def forward(
        self,
        hidden: Tensor,
        modulation: Tensor,
        text: KeysValues,
        self_attention: "SelfAttention",
        run: "RunLayer | None" = None,
    ) -> Tensor:
        return (run or run_layer)(self, hidden, modulation, text, self_attention)


def attend_rows(call: "SelfAttention", queries: Tensor, own: KeysValues, rotated_keys: Tensor) -> Tensor:
    """Rows have caches of their own; the projections, which read the weights, are computed for all together.

    `rotated_keys` may be float32, not rounded to the dtype of the others.
    Slots and lengths change with the block, so this must stay outside of compiled graphs.
    """
    hooks = call.hooks or (None,) * len(queries)
    rows = zip(hooks, queries.split(1), call.contexts(own, rotated_keys), rotated_keys.split(1), strict=True)
    attended: list[Tensor] = []
    for row_hooks, row, context, keys in rows:
        if row_hooks is None:
            attended.append(attention(row, context, call.kernel))
        else:
            attended.append(_hooked_row(call, row_hooks, row, context, keys))
    return attended[0] if len(attended) == 1 else torch.cat(attended)


def _hooked_row(call: "SelfAttention", hooks: RowHooks, row: Tensor, context: KeysValues, keys: Tensor) -> Tensor:
    x = attention(row, context, partial(hooks.attend, call.layer, call.kernel))
    return hooks.after_self_attention(call.layer, x, row, keys.to(row.dtype))


def attend_text(call: "SelfAttention", modules: Any, hidden: Tensor, x: Tensor, text: KeysValues) -> Tensor:
    """hidden float32 [B, L, dim] with the text added, of a batch with hooks; x [B, L, dim] asks. As `attend_rows`."""
    texts = [KeysValues(k, v) for k, v in zip(text.k.split(1), text.v.split(1), strict=True)]
    texts = texts * len(hidden) if len(texts) == 1 else texts
    rows = zip(call.hooks or (), hidden.split(1), x.split(1), texts, strict=True)
    attended: list[Tensor] = []
    for hooks, row, asks, own_text in rows:
        kernel = partial(hooks.attend, call.layer, call.kernel)
        added = row + cross_attention(modules, asks, own_text, call.head_dim, kernel)
        attended.append(hooks.after_text_attention(call.layer, added, asks))
    return torch.cat(attended)


AttendText = Callable[["SelfAttention", Any, Tensor, Tensor, KeysValues], Tensor]
AttendRows = Callable[["SelfAttention", Tensor, KeysValues, Tensor], Tensor]


@dataclass(frozen=True)
class SelfAttention:
    """How self-attention of a batch of evaluations works; `layer` counts as in the whole model.

    `attend`, `attend_text`: the functions above, or what keeps them out of a compiled graph. `hooks`: one for each row,
    or None.
    """

    layer: int
    head_dim: int
    kernel: AttentionKernel
    rope: RopeFactors
    cache: KVCache
    attend: AttendRows = field(default=attend_rows, kw_only=True)
    attend_text: AttendText = field(default=attend_text, kw_only=True)
    hooks: tuple[RowHooks, ...] | None = field(default=None, kw_only=True)

    def contexts(self, own: KeysValues, rotated_keys: Tensor) -> Iterator[KeysValues]:
        """What each row of the batch attends to, from the batch's own keys and values."""
        raise NotImplementedError

    def __call__(self, modules: Any, x: Tensor) -> Tensor:
        queries = apply_rope(project_queries(modules, x, self.head_dim), self.rope)
        own = project_keys_values(modules, x, self.head_dim)
        # They are rounded where the cache keeps them. A compiled graph writes them anyway, so it writes them rounded.
        rotate = apply_rope if torch.compiler.is_compiling() else turn
        return modules.o(self.attend(self, queries, own, rotate(own.k, self.rope)))


@dataclass(frozen=True)
class BlockAttention(SelfAttention):
    """Noisy tokens of blocks at steps, one row each: attend to the sink and to the ring, their own slot included."""

    uses: Sequence[CacheUse]

    def contexts(self, own: KeysValues, rotated_keys: Tensor) -> Iterator[KeysValues]:
        for use, k, v in zip(self.uses, rotated_keys.split(1), own.v.split(1), strict=True):
            yield self.cache.attend(self.layer, use, KeysValues(k, v))


@dataclass(frozen=True)
class SinkAttention(SelfAttention):
    """Sink tokens: attend to each other; their keys and values are kept."""

    sink: Sink

    def contexts(self, own: KeysValues, rotated_keys: Tensor) -> Iterator[KeysValues]:
        rotated_keys = rotated_keys.to(own.k.dtype)
        self.cache.keep_sink(self.sink, self.layer, own, rotated_keys)
        yield KeysValues(rotated_keys, own.v)


def run_layer(
    layer: Any, hidden: Tensor, modulation: Tensor, text: KeysValues, self_attention: SelfAttention
) -> Tensor:
    """hidden [B, L, dim]; modulation float32 [B, 6, dim]; text keys/values [1 or B, ...] -> hidden [B, L, dim]."""
    dtype = hidden.dtype
    parts = modulation_parts(layer.modulation, modulation)
    shift_sa, scale_sa, gate_sa, shift_ffn, scale_ffn, gate_ffn = parts
    x = modulate(layer.norm1(hidden), shift_sa, scale_sa, dtype)
    residual = add_gated(hidden, self_attention(layer.self_attn, x), gate_sa, torch.float32)
    x = layer.norm3(residual.to(dtype))
    if self_attention.hooks is None:
        head_dim, kernel = self_attention.head_dim, self_attention.kernel
        residual = add_to(residual, cross_attention(layer.cross_attn, x, text, head_dim, kernel))
    else:
        residual = self_attention.attend_text(self_attention, layer.cross_attn, residual, x, text)
    x = modulate(layer.norm2(residual), shift_ffn, scale_ffn, dtype)
    return add_gated(residual, layer.ffn(x), gate_ffn, dtype)


RunLayer = Callable[[Any, Tensor, Tensor, KeysValues, SelfAttention], Tensor]
"""`run_layer`, or a compiled one."""
