"""Layers of the Wan 2.1 VAE. Tensors are [B, C, T, H, W]; time is causal, its past comes from a `History`.

`operations` is a namespace with Conv2d and Conv3d, by default `vae.operations`.
"""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layout import memory_format, with_plain_strides
from .state import History

PAST_FRAMES = 2
TINY = 1e-24
"""Added to a mean square that may be 0."""
SEEN = torch.tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], dtype=torch.float32, device="cpu")
"""[parity, pixel, tap]: in a row where every pixel stands twice, which of the two different ones that 3 taps at an
even or an odd place see is under which tap."""


def per_frame(module: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Run a 2D module on each frame of [B, C, T, H, W]."""
    batch, frames = x.shape[0], x.shape[2]
    y = module(_frames_as_batch(x))
    return with_plain_strides(y.unflatten(0, (batch, frames)).transpose(1, 2))


def _frames_as_batch(x: Tensor) -> Tensor:
    """[B, C, T, H, W] -> [B * T, C, H, W]."""
    return with_plain_strides(x.transpose(1, 2).flatten(0, 1))


def _channel_length(x: Tensor) -> Tensor:
    """Euclidean length over dim 1 in float32, [B, 1, ...]."""
    if x.device.type == "cpu":
        # vector_norm over a strided dimension takes six times as long here; elsewhere it reads x once, without copies.
        return x.float().square().sum(dim=1, keepdim=True).sqrt()
    return torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32)


class RMSNorm(nn.Module):
    """Norm over the channels, computed in float32 whatever the dtype of x: a bfloat16 sum of squares is too coarse."""

    def __init__(self, channels: int, trailing_dims: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.scale = channels**0.5
        self.gamma = nn.Parameter(torch.ones(channels, *(1,) * trailing_dims, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, ...] -> the same in float32; where the channels lie side by side in one kernel, in x's dtype."""
        if not torch.is_grad_enabled() and memory_format(x) != torch.contiguous_format:
            by_pixel = F.rms_norm(x.movedim(1, -1), self.gamma.shape[:1], self.gamma.flatten().to(x.dtype), TINY)
            return with_plain_strides(by_pixel.movedim(-1, 1))
        length = _channel_length(x).clamp_min(1e-12)
        weight = self.gamma.to(length) * self.scale
        return x / length * weight if torch.is_grad_enabled() else (x / length).mul_(weight)


def activated(norm: nn.Module, x: Tensor) -> Tensor:
    """SiLU of the norm of x, in x's dtype."""
    return F.silu(norm(x), inplace=not torch.is_grad_enabled()).to(x.dtype)


class ResidualBlock(nn.Module):
    """Two times norm, SiLU, causal 3x3x3 convolution; plus the input."""

    name = ""

    def __init__(self, channels_in: int, channels_out: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            RMSNorm(channels_in, 3, **factory),
            nn.SiLU(),
            operations.Conv3d(channels_in, channels_out, 3, padding=(0, 1, 1), **factory),
            RMSNorm(channels_out, 3, **factory),
            nn.SiLU(),
            nn.Identity(),  # where the training code has a dropout; holds the index
            operations.Conv3d(channels_out, channels_out, 3, padding=(0, 1, 1), **factory),
        )
        same = channels_in == channels_out
        self.shortcut = nn.Identity() if same else operations.Conv3d(channels_in, channels_out, 1, **factory)

    def forward(self, x: Tensor, history: History) -> Tensor:
        y = x
        for norm, conv in ((0, 2), (3, 6)):
            # Nothing keeps what was activated: it is as large as x, and the convolution is where memory peaks.
            y = history.join(f"{self.name}.residual.{conv}", activated(self.residual[norm], y), PAST_FRAMES)
            y = self.residual[conv](y)
            if conv == 2:
                history.on_layer()
        return y + self.shortcut(x) if torch.is_grad_enabled() else y.add_(self.shortcut(x))


class AttentionBlock(nn.Module):
    """Single-head attention inside each frame; plus the input."""

    def __init__(self, channels: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.norm = RMSNorm(channels, 2, **factory)
        self.to_qkv = operations.Conv2d(channels, channels * 3, 1, **factory)
        self.proj = operations.Conv2d(channels, channels, 1, **factory)

    def _attend(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        qkv = self.to_qkv(self.norm(x).to(x.dtype)).flatten(2).transpose(1, 2).unsqueeze(1)
        q, k, v = qkv.contiguous().chunk(3, dim=-1)
        attended = F.scaled_dot_product_attention(q, k, v).squeeze(1)
        return self.proj(with_plain_strides(attended.transpose(1, 2).unflatten(2, (height, width))))

    def forward(self, x: Tensor, history: History) -> Tensor:
        batch, frames = x.shape[0], x.shape[2]
        attended = self._attend(_frames_as_batch(x))
        return x + attended.unflatten(0, (batch, frames)).transpose(1, 2)


class Downsample(nn.Module):
    """Halves the picture, then, if temporal, the frame rate: the first frame of a video stays alone."""

    name = ""

    def __init__(self, channels: int, temporal: bool, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.ZeroPad2d((0, 1, 0, 1)), operations.Conv2d(channels, channels, 3, stride=2, **factory)
        )
        if temporal:
            self.time_conv = operations.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1), **factory)
        self.temporal = temporal

    def forward(self, x: Tensor, history: History) -> Tensor:
        x = per_frame(self.resample, x)
        if not self.temporal:
            return x
        name = f"{self.name}.time_conv"
        if history.fresh:
            history.remember(name, x, 1)
            return x
        return self.time_conv(history.join(name, x, 1))


def _frames_of_pairs(pairs: Tensor) -> Tensor:
    """[B, 2 * C, T, H, W], where each frame has the channels of two -> [B, C, 2 * T, H, W], which lies the same way."""
    if memory_format(pairs) == torch.contiguous_format:
        return pairs.unflatten(1, (2, -1)).permute(0, 2, 3, 1, 4, 5).flatten(2, 3)
    frames = pairs.unflatten(1, (2, -1)).permute(0, 3, 1, 4, 5, 2).flatten(1, 2).contiguous()
    return with_plain_strides(frames.movedim(-1, 1))


def _of_doubled(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A 3x3 convolution, padded by 1, of pictures x [N, C, H, W] that are doubled by repeating pixels, [N, O, 2H, 2W].

    Of the doubled picture it sees 2x2 different pixels at each place, so that a 2x2 convolution of the small one gives
    the same but for rounding, with 4/9 of the products: one with four times the channels, for the parities of row and
    column.
    """
    weight, (height, width) = conv.weight, x.shape[2:]
    by_parity = torch.einsum("pak,qbl,oikl->pqoiab", SEEN, SEEN, weight.float()).flatten(0, 2).to(x.dtype)
    assert conv.bias is not None
    found = F.conv2d(x, by_parity, conv.bias.to(x.dtype).repeat(4), padding=1).unflatten(1, (2, 2, -1))
    doubled = x.new_empty(len(x), weight.shape[0], height, 2, width, 2)
    for row, column in product(range(2), repeat=2):
        part = found[:, row, column, :, row : row + height, column : column + width]
        doubled[:, :, :, row, :, column] = part
    return doubled.flatten(4).flatten(2, 3)


class Upsample(nn.Module):
    """Doubles the frame rate, if temporal, except for the first frame of a video; then doubles the picture."""

    name = ""

    def __init__(self, channels: int, temporal: bool, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=2.0, mode="nearest-exact"),
            operations.Conv2d(channels, channels // 2, 3, padding=1, **factory),
        )
        if temporal:
            self.time_conv = operations.Conv3d(channels, channels * 2, (3, 1, 1), **factory)
        self.temporal = temporal

    def forward(self, x: Tensor, history: History) -> Tensor:
        # The first frame is not remembered either: to the second one the past is empty, as it was in training.
        if self.temporal and not history.fresh:
            pairs = self.time_conv(history.join(f"{self.name}.time_conv", x, PAST_FRAMES))
            x = _frames_of_pairs(pairs)
        on_processor = x.device.type == "cpu" and memory_format(x) == torch.contiguous_format
        if on_processor and not torch.is_grad_enabled():
            # Not tried on a card.
            return per_frame(partial(_of_doubled, cast(nn.Conv2d, self.resample[1])), x)
        return per_frame(self.resample, x)
