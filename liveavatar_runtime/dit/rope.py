"""Rotary position embedding over (latent frame, row, column), with positions computed rather than tabulated.

Source: Wan 2.2 S2V and Live Avatar (arXiv 2512.04677). A head of d channels is split into d/2 complex pairs
(x[2j], x[2j+1]); the first d/2 - 2*(d/6) pairs turn with the frame index, d/6 with the row, d/6 with the column.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..device_kinds import CPU, FUSED_FORMS

THETA = 10000.0
REFERENCE_FRAME = 30
"""Frame index of the reference picture while the video is young; later it keeps a fixed distance to the block."""


@dataclass(frozen=True)
class RopeFactors:
    """cos and sin of the rotation angles, each float32 [(batch,) tokens, 1, pairs]; the 1 is for the heads.

    `turns`: cos + i sin, complex64 of the same shape, where numbers are rotated as complex ones (`turns_complex`).
    """

    cos: Tensor
    sin: Tensor
    turns: Tensor | None = None

    @classmethod
    def of(cls, cos: Tensor, sin: Tensor) -> "RopeFactors":
        """With `turns` where they are used."""
        return cls(cos, sin, torch.complex(cos, sin) if turns_complex(cos.device, cos.shape[-1]) else None)

    def to(self, device: torch.device | str) -> "RopeFactors":
        return RopeFactors.of(self.cos.to(device), self.sin.to(device))


EXACT_PAIRS = 8
"""Complex numbers that a processor multiplies at once; it takes the rest one by one, with another rounding."""
SAME_BITS = ("AVX2", "AVX512")
"""Vector units of processors whose product of complex numbers rounds as the four products and two sums do."""


def turns_complex(device: torch.device, pairs: int) -> bool:
    """Whether heads of so many pairs are rotated as complex numbers on a device, or with cos and sin as real ones.

    | Device | As | Why |
    | --- | --- | --- |
    | processor | complex, where it gives the same bits | a quarter of the time; saved videos go on with equal bits |
    | CUDA | complex | 0.32 of the time on an H100, as fast as comfy_kitchen's kernel there; apart by one rounding |
    | others | real | complex numbers are missing there or slow |

    What a device is decides, so a process and its workers choose alike. Compiled graphs are always of real numbers,
    which the compiler joins to one kernel.
    """
    if device.type == CPU:
        return pairs % EXACT_PAIRS == 0 and torch.backends.cpu.get_cpu_capability() in SAME_BITS
    return device.type in FUSED_FORMS


def axis_pairs(head_dim: int) -> tuple[int, int, int]:
    """Complex pairs of a head that belong to (frame, row, column)."""
    pairs = head_dim // 2
    return pairs - 2 * (pairs // 3), pairs // 3, pairs // 3


def temporal_channels(head_dim: int) -> int:
    """The first channels of a head, which turn with the frame."""
    return 2 * axis_pairs(head_dim)[0]


def _axis_factors(positions: Sequence[int], pairs: int) -> Tensor:
    """cos and sin of an axis' positions, float32 [2, positions, pairs]; a negative position turns backwards."""
    angles = torch.tensor(positions, dtype=torch.float64)[:, None] * _frequencies(pairs)
    return torch.stack((angles.cos(), angles.sin())).float()


def _grid_factors(frames: Tensor, rows: Tensor, columns: Tensor) -> RopeFactors:
    """Factors of a grid of tokens from those of its axes, in (frame, row, column) order."""
    shape = (2, frames.shape[1], rows.shape[1], columns.shape[1], -1)
    axes = (frames[:, :, None, None], rows[:, None, :, None], columns[:, None, None, :])
    grid = torch.cat([axis.expand(shape) for axis in axes], dim=-1)
    cos, sin = grid.flatten(1, 3).unsqueeze(2)
    return RopeFactors.of(cos, sin)


def rope_factors(head_dim: int, frames: list[int], rows: list[int], columns: list[int]) -> RopeFactors:
    """Factors of a grid of tokens in (frame, row, column) order, on the CPU; a negative frame turns backwards."""
    positions = zip((frames, rows, columns), axis_pairs(head_dim), strict=True)
    return _grid_factors(*(_axis_factors(axis, pairs) for axis, pairs in positions))


def _frequencies(pairs: int) -> Tensor:
    return 1.0 / THETA ** (torch.arange(pairs, dtype=torch.float64) / pairs)


def join_factors(*parts: RopeFactors) -> RopeFactors:
    return RopeFactors.of(torch.cat([p.cos for p in parts]), torch.cat([p.sin for p in parts]))


def stack_factors(rows: Sequence[RopeFactors]) -> RopeFactors:
    """Factors of a batch whose rows stand at different positions."""
    if len(rows) == 1:
        return rows[0]
    return RopeFactors.of(torch.stack([r.cos for r in rows]), torch.stack([r.sin for r in rows]))


def block_rope(head_dim: int, grid: tuple[int, int], start_frame: int, num_frames: int) -> RopeFactors:
    """Factors of a noisy block: absolute latent frames start_frame.., every row and column of the patch grid."""
    rows, columns = grid
    frames = list(range(start_frame, start_frame + num_frames))
    return rope_factors(head_dim, frames, list(range(rows)), list(range(columns)))


class RopeTables:
    """Factors of a patch grid's positions, kept on a device axis by axis.

    The angles are computed on the CPU in float64 and copied once, those of frames in pages as a video reaches them, so
    that an evaluation neither computes nor waits for any.
    """

    PAGE = 512
    """As few as let a page take next to no memory, also while it is made in float64."""
    LONGEST = 64
    """Frames that are asked for at once; a page holds as many of the next one."""

    def __init__(self, head_dim: int, grid: tuple[int, int], device: torch.device) -> None:
        self._pairs, self._device = axis_pairs(head_dim), device
        rows, columns = (_axis_factors(range(n), pairs) for n, pairs in zip(grid, self._pairs[1:], strict=True))
        self._rows, self._columns = rows.to(device), columns.to(device)
        self._pages: dict[int, Tensor] = {}

    def block(self, start_frame: int, num_frames: int) -> RopeFactors:
        """As `block_rope`."""
        return _grid_factors(self._frames(start_frame, num_frames), self._rows, self._columns)

    def frame(self, frame: int) -> RopeFactors:
        """Of the temporal channels of all tokens of one frame, [1, 1, temporal pairs]."""
        cos, sin = self._frames(frame, 1)
        return RopeFactors.of(cos[:, None], sin[:, None])

    def _frames(self, start: int, count: int) -> Tensor:
        page, offset = divmod(start, self.PAGE)
        if page not in self._pages:
            first = page * self.PAGE
            angles = _axis_factors(range(first, first + self.PAGE + self.LONGEST), self._pairs[0])
            self._pages[page] = angles.to(self._device)
        assert count <= self.LONGEST, f"{count} frames at once; a page has room for {self.LONGEST}"
        return self._pages[page][:, offset : offset + count]


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
    """Rotate x [..., tokens, heads, 2 * pairs]; computed in float32, returned in x's dtype."""
    return turn(x, factors).to(x.dtype)


def apply_rope_into(target: Tensor, x: Tensor, factors: RopeFactors) -> None:
    """As `apply_rope`, written to `target`, which may be x."""
    target.copy_(turn(x, factors))


def turn(x: Tensor, factors: RopeFactors) -> Tensor:
    """As `apply_rope`, in float32."""
    pairs = x.float().unflatten(-1, (-1, 2))
    if not torch.compiler.is_compiling() and factors.turns is not None:
        return torch.view_as_real(torch.view_as_complex(pairs) * factors.turns).flatten(-2)
    real, imaginary = pairs.unbind(-1)
    cos, sin = factors.cos, factors.sin
    return torch.stack((real * cos - imaginary * sin, real * sin + imaginary * cos), dim=-1).flatten(-2)
