"""Rotary position embedding over (latent frame, row, column), with positions computed rather than tabulated.

Source: Wan 2.2 S2V and Live Avatar (arXiv 2512.04677). A head of d channels is split into d/2 complex pairs
(x[2j], x[2j+1]); the first d/2 - 2*(d/6) pairs turn with the frame index, d/6 with the row, d/6 with the column.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

THETA = 10000.0
REFERENCE_FRAME = 30
"""Frame index of the reference picture while the video is young; later it keeps a fixed distance to the block."""


@dataclass(frozen=True)
class RopeFactors:
    """cos and sin of the rotation angles, each float32 [(batch,) tokens, 1, head_dim / 2]; the 1 is for the heads."""

    cos: Tensor
    sin: Tensor

    def to(self, device: torch.device | str) -> "RopeFactors":
        return RopeFactors(self.cos.to(device), self.sin.to(device))


def axis_pairs(head_dim: int) -> tuple[int, int, int]:
    """Complex pairs of a head that belong to (frame, row, column)."""
    pairs = head_dim // 2
    return pairs - 2 * (pairs // 3), pairs // 3, pairs // 3


def rope_factors(head_dim: int, frames: list[int], rows: list[int], columns: list[int]) -> RopeFactors:
    """Factors of a grid of tokens in (frame, row, column) order; a negative frame turns backwards."""
    positions = (frames, rows, columns)
    angles = [
        torch.tensor(axis, dtype=torch.float64)[:, None] * _frequencies(pairs)
        for axis, pairs in zip(positions, axis_pairs(head_dim), strict=True)
    ]
    shape = (len(frames), len(rows), len(columns))
    grid = torch.cat(
        [
            angles[0][:, None, None].expand(*shape, -1),
            angles[1][None, :, None].expand(*shape, -1),
            angles[2][None, None, :].expand(*shape, -1),
        ],
        dim=-1,
    ).reshape(-1, 1, head_dim // 2)
    return RopeFactors(grid.cos().float(), grid.sin().float())


def _frequencies(pairs: int) -> Tensor:
    return 1.0 / THETA ** (torch.arange(pairs, dtype=torch.float64) / pairs)


def join_factors(*parts: RopeFactors) -> RopeFactors:
    return RopeFactors(torch.cat([p.cos for p in parts]), torch.cat([p.sin for p in parts]))


def stack_factors(rows: Sequence[RopeFactors]) -> RopeFactors:
    """Factors of a batch whose rows stand at different positions."""
    if len(rows) == 1:
        return rows[0]
    return RopeFactors(torch.stack([r.cos for r in rows]), torch.stack([r.sin for r in rows]))


def block_rope(head_dim: int, grid: tuple[int, int], start_frame: int, num_frames: int) -> RopeFactors:
    """Factors of a noisy block: absolute latent frames start_frame.., every row and column of the patch grid."""
    rows, columns = grid
    frames = list(range(start_frame, start_frame + num_frames))
    return rope_factors(head_dim, frames, list(range(rows)), list(range(columns)))


def reference_frame(block_start_frame: int, relative_distance: int) -> int:
    """RoPE frame of the reference picture for a block ("rolling RoPE").

    It stays at 30 until the block has come within `relative_distance`, then keeps exactly that distance ahead.
    """
    return REFERENCE_FRAME + max(0, block_start_frame - (REFERENCE_FRAME - relative_distance))


def reference_rope(head_dim: int, grid: tuple[int, int], frame: int) -> RopeFactors:
    return block_rope(head_dim, grid, frame, 1)


def motion_rope(head_dim: int, grid: tuple[int, int]) -> RopeFactors:
    """Factors of the packed motion tokens in sequence order: 1x at frame -1, 2x at -3, 4x over -19..-4.

    Half and quarter resolution tokens sit at the original's truncated linspace over the full grid.
    """
    rows, columns = grid
    full = rope_factors(head_dim, [-1], list(range(rows)), list(range(columns)))
    half = rope_factors(head_dim, [-3], _resampled(rows, rows // 2), _resampled(columns, columns // 2))
    quarter_frames = [-int(f) for f in np.linspace(19, 4, 4)]
    quarter = rope_factors(head_dim, quarter_frames, _resampled(rows, rows // 4), _resampled(columns, columns // 4))
    return join_factors(full, half, quarter)


def _resampled(full: int, count: int) -> list[int]:
    return [int(p) for p in np.linspace(0, full - 1, count)]


def apply_rope(x: Tensor, factors: RopeFactors) -> Tensor:
    """Rotate x [..., tokens, heads, head_dim]; computed in float32, returned in x's dtype."""
    real, imaginary = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = factors.cos, factors.sin
    turned = torch.stack((real * cos - imaginary * sin, real * sin + imaginary * cos), dim=-1)
    return turned.flatten(-2).to(x.dtype)
