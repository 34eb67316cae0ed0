"""One transformer layer, as functions over its modules: causal self-attention, text cross-attention, FFN.

Arithmetic follows the original: modulation, gates and residual adds in float32, matrix products in the model's dtype.

A layer is two pieces around self-attention itself, whose slots and lengths change with the block: `before_attention`
and `after_attention`. They see tensors of the same shapes at every block and step, so that `torch.compile` makes one
graph of each (`Pieces`).
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
    ) -> Tensor:
        return run_layer(self, hidden, modulation, text, self_attention)


Parts = tuple[Tensor, ...]
"""The six modulations of a layer: shift, 1 + scale and gate of attention, then of the FFN."""


@dataclass(frozen=True)
class Asked:
    """What self-attention is given: queries, its own keys and values, and the keys rotated [B, L, heads, head_dim].

    `rotated_keys` may be float32, not rounded to the dtype of the others.
    """

    queries: Tensor
    own: KeysValues
    rotated_keys: Tensor


def before_attention(
    layer: Any, hidden: Tensor, modulation: Tensor, rope: RopeFactors, head_dim: int
) -> tuple[Parts, Tensor, Tensor, Tensor, Tensor]:
    """hidden [B, L, dim] -> the modulations; rotated queries, keys, values and rotated keys [B, L, heads, head_dim]."""
    parts = modulation_parts(layer.modulation, modulation)
    x = modulate(layer.norm1(hidden), parts[0], parts[1], hidden.dtype)
    modules = layer.self_attn
    queries = apply_rope(project_queries(modules, x, head_dim), rope)
    own = project_keys_values(modules, x, head_dim)
    # They are rounded where the cache keeps them. A compiled graph writes them anyway, so it writes them rounded.
    rotate = apply_rope if torch.compiler.is_compiling() else turn
    return parts, queries, own.k, own.v, rotate(own.k, rope)


def answered(layer: Any, hidden: Tensor, attended: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    """hidden with what self-attention gave [B, L, dim], in float32; and what asks the text, in hidden's dtype."""
    residual = add_gated(hidden, layer.self_attn.o(attended), gate, torch.float32)
    return residual, layer.norm3(residual.to(hidden.dtype))


def finished(layer: Any, residual: Tensor, parts: Parts, dtype: torch.dtype) -> Tensor:
    """float32 [B, L, dim] with the FFN, in `dtype`."""
    x = modulate(layer.norm2(residual), parts[3], parts[4], dtype)
    return add_gated(residual, layer.ffn(x), parts[5], dtype)


def after_attention(layer: Any, hidden: Tensor, attended: Tensor, parts: Parts, ask: "AskText") -> Tensor:
    """hidden and what self-attention gave, [B, L, dim] -> hidden after the layer."""
    residual, x = answered(layer, hidden, attended, parts[2])
    residual = add_to(residual, cross_attention(layer.cross_attn, x, ask.text, ask.head_dim, ask.kernel))
    return finished(layer, residual, parts, hidden.dtype)


@dataclass(frozen=True)
class AskText:
    """The text's keys and values [1 or B, ...], and how they are attended to."""

    text: KeysValues
    head_dim: int
    kernel: AttentionKernel


@dataclass(frozen=True)
class Pieces:
    """The functions above, or compiled ones. The last two take the place of the second where hooks work in between."""

    before_attention: Callable[..., tuple[Parts, Tensor, Tensor, Tensor, Tensor]] = before_attention
    after_attention: Callable[..., Tensor] = after_attention
    answered: Callable[..., tuple[Tensor, Tensor]] = answered
    finished: Callable[..., Tensor] = finished

    def compiled(self, **options: Any) -> "Pieces":
        """By `torch.compile`, when they are first called; its options."""
        return Pieces(
            torch.compile(self.before_attention, **options),
            torch.compile(self.after_attention, **options),
            torch.compile(self.answered, **options),
            torch.compile(self.finished, **options),
        )


PLAIN = Pieces()


@dataclass(frozen=True)
class SelfAttention:
    """How self-attention of a batch of evaluations works; `layer` counts as in the whole model.

    `pieces`: what the layer is made of around it. `hooks`: one for each row, or None.
    """

    layer: int
    head_dim: int
    kernel: AttentionKernel
    rope: RopeFactors
    pieces: Pieces = field(default=PLAIN, kw_only=True)
    hooks: tuple[RowHooks, ...] | None = field(default=None, kw_only=True)

    def attend(self, asked: Asked) -> Tensor:
        """[B, L, dim], before the output projection."""
        raise NotImplementedError


@dataclass(frozen=True)
class CachedAttention(SelfAttention):
    """Over what a cache keeps."""

    cache: KVCache

    def contexts(self, asked: Asked) -> Iterator[KeysValues]:
        """What each row of the batch attends to."""
        raise NotImplementedError

    def attend(self, asked: Asked) -> Tensor:
        """Rows have caches of their own; the projections, which read the weights, are computed for all together."""
        hooks = self.hooks or (None,) * len(asked.queries)
        contexts, keys = self.contexts(asked), asked.rotated_keys.split(1)
        attended: list[Tensor] = []
        for row_hooks, row, context, own in zip(hooks, asked.queries.split(1), contexts, keys, strict=True):
            if row_hooks is None:
                attended.append(attention(row, context, self.kernel))
            else:
                attended.append(self._hooked_row(row_hooks, row, context, own))
        return attended[0] if len(attended) == 1 else torch.cat(attended)

    def _hooked_row(self, hooks: RowHooks, row: Tensor, context: KeysValues, keys: Tensor) -> Tensor:
        x = attention(row, context, partial(hooks.attend, self.layer, self.kernel))
        return hooks.after_self_attention(self.layer, x, row, keys.to(row.dtype))


@dataclass(frozen=True)
class BlockAttention(CachedAttention):
    """Noisy tokens of blocks at steps, one row each: attend to the sink and to the ring, their own slot included."""

    uses: Sequence[CacheUse]

    def contexts(self, asked: Asked) -> Iterator[KeysValues]:
        for use, k, v in zip(self.uses, asked.rotated_keys.split(1), asked.own.v.split(1), strict=True):
            yield self.cache.attend(self.layer, use, KeysValues(k, v))


@dataclass(frozen=True)
class SinkAttention(CachedAttention):
    """Sink tokens: attend to each other; their keys and values are kept."""

    sink: Sink

    def contexts(self, asked: Asked) -> Iterator[KeysValues]:
        rotated_keys = asked.rotated_keys.to(asked.own.k.dtype)
        self.cache.keep_sink(self.sink, self.layer, asked.own, rotated_keys)
        yield KeysValues(rotated_keys, asked.own.v)


def run_layer(
    layer: Any, hidden: Tensor, modulation: Tensor, text: KeysValues, self_attention: SelfAttention
) -> Tensor:
    """hidden [B, L, dim]; modulation float32 [B, 6, dim]; text keys/values [1 or B, ...] -> hidden [B, L, dim]."""
    call, pieces = self_attention, self_attention.pieces
    parts, queries, keys, values, rotated = pieces.before_attention(layer, hidden, modulation, call.rope, call.head_dim)
    asked = Asked(queries, KeysValues(keys, values), rotated)
    attended = call.attend(asked)
    # Not kept until the layer's end, where memory peaks.
    del asked, queries, keys, values, rotated
    if call.hooks is None:
        return pieces.after_attention(layer, hidden, attended, parts, AskText(text, call.head_dim, call.kernel))
    residual, x = pieces.answered(layer, hidden, attended, parts[2])
    return pieces.finished(layer, _with_text(call, layer.cross_attn, residual, x, text), parts, hidden.dtype)


def _with_text(call: SelfAttention, modules: Any, hidden: Tensor, x: Tensor, text: KeysValues) -> Tensor:
    """hidden float32 [B, L, dim] with the text added, of a batch with hooks; x [B, L, dim] asks."""
    texts = [KeysValues(k, v) for k, v in zip(text.k.split(1), text.v.split(1), strict=True)]
    texts = texts * len(hidden) if len(texts) == 1 else texts
    rows = zip(call.hooks or (), hidden.split(1), x.split(1), texts, strict=True)
    attended: list[Tensor] = []
    for hooks, row, asks, own_text in rows:
        kernel = partial(hooks.attend, call.layer, call.kernel)
        added = row + cross_attention(modules, asks, own_text, call.head_dim, kernel)
        attended.append(hooks.after_text_attention(call.layer, added, asks))
    return torch.cat(attended)
