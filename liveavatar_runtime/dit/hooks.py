"""What a program around the runtime may do inside the layers: stand in for attention, and change what it gives.

Nothing by default. A batch of evaluations has one `RowHooks` for each of its rows, and each sees its row only, so that
an evaluation gives the same whichever others it is computed with.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from .attention import AttentionKernel

CLEAN = 0.0
"""Noise level of the sink."""


class RowHooks(Protocol):
    """Of one evaluation, from its first layer to its last; `layer` counts as in the whole model."""

    def attend(self, layer: int, kernel: AttentionKernel, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of q [1, heads, Lq, head_dim] over k and v [1, heads, Lk, head_dim] -> [1, heads, Lq, head_dim].

        `kernel` is what would do it. Called for self-attention and for the text, not for the voice.
        """
        ...

    def after_self_attention(self, layer: int, x: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        """x [1, L, dim] before the output projection; its own rotated queries and keys [1, L, heads, head_dim]."""
        ...

    def after_text_attention(self, layer: int, hidden: Tensor, like: Tensor) -> Tensor:
        """hidden [1, L, dim] in float32 with the text added; `like` has the dtype that the model computes in."""
        ...


BeginRow = Callable[[float, Sequence[float]], RowHooks]
"""(noise level of the evaluation, those of all steps and the final 0) -> its hooks."""
