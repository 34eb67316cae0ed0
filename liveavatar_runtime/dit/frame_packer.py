"""Packs the motion history: recent latent frames at full, older ones at half and quarter resolution.

Source: FramePack as used by Wan2.2-S2V ("padd" mode): of the last 19 latent frames the newest is embedded with the
(1, 2, 2) kernel, the two before with (2, 4, 4), the sixteen before those with (4, 8, 8).
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..config import FRAME_PACK_BUCKETS, AvatarConfig


class FramePacker(nn.Module):
    """Weights of the three embeddings (the original's `frame_packer`)."""

    def __init__(self, config: AvatarConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        for name, scale in (("proj", 1), ("proj_2x", 2), ("proj_4x", 4)):
            kernel = tuple(scale * side for side in config.patch_size)
            conv = operations.Conv3d(config.in_dim, config.dim, kernel_size=kernel, stride=kernel, **factory)
            self.add_module(name, conv)


def pack_motion(packer: Any, motion: Tensor) -> Tensor:
    """motion [B, 16, T, h, w] (oldest first) -> tokens [B, N, dim]: full, half, quarter resolution.

    Only the last 19 latent frames count; where there are fewer, zeros stand in front.
    """
    newest, middle, oldest = FRAME_PACK_BUCKETS
    history = motion[:, :, -(newest + middle + oldest) :]
    missing = newest + middle + oldest - history.shape[2]
    if missing:
        history = torch.cat([history.new_zeros(*history.shape[:2], missing, *history.shape[3:]), history], dim=2)
    quarter, half, full = history.split([oldest, middle, newest], dim=2)
    parts = (packer.proj(full), packer.proj_2x(half), packer.proj_4x(quarter))
    return torch.cat([part.flatten(2).transpose(1, 2) for part in parts], dim=1)


def packed_token_count(grid: tuple[int, int]) -> int:
    """Tokens that `pack_motion` gives for a patch grid (rows, columns)."""
    rows, columns = grid
    return rows * columns + (rows // 2) * (columns // 2) + 4 * (rows // 4) * (columns // 4)
