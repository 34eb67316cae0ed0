"""Embeddings around the layers: time step, head, patches. Time and head run in float32, as in the original."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .initial import small_weight

TRAIN_STEPS = 1000
"""The time step of pure noise."""


@dataclass(frozen=True)
class TimeModulation:
    """Modulations of one time step, float32: `layers` [1, 6, dim] for every layer, `head` [1, 1, dim]."""

    layers: Tensor
    head: Tensor


def sinusoid(timestep: float, freq_dim: int) -> Tensor:
    """[cos, sin] embedding of a time step in 0..1000, float64 angles, float32 [1, freq_dim] (DDPM / Wan)."""
    half = freq_dim // 2
    frequencies = torch.pow(10000.0, -torch.arange(half, dtype=torch.float64) / half)
    angles = timestep * frequencies
    return torch.cat([angles.cos(), angles.sin()])[None].float()


def embed_time(model: Any, timestep: float, freq_dim: int, device: torch.device) -> TimeModulation:
    """Time embedding and its projection to six modulations."""
    x = linear_float32(model.time_embedding[0], sinusoid(timestep, freq_dim).to(device))
    x = linear_float32(model.time_embedding[2], F.silu(x))
    layers = linear_float32(model.time_projection[1], F.silu(x)).unflatten(1, (6, -1))
    return TimeModulation(layers, x[:, None])


def casts_weights(layer: Any) -> bool:
    """Whether a layer brings its weights to the input's dtype by itself, as ComfyUI's operations can."""
    names = ("comfy_cast_weights", "weight_function", "bias_function")
    return any(bool(getattr(layer, name, False)) for name in names)


def linear_float32(layer: Any, x: Tensor) -> Tensor:
    """A Linear in float32 whatever its weights' dtype."""
    if casts_weights(layer) or layer.weight.dtype == torch.float32:
        return layer(x.float())
    bias = None if layer.bias is None else layer.bias.float()
    return F.linear(x.float(), layer.weight.float(), bias)


def embed_patches(conv: Any, latents: Tensor) -> Tensor:
    """latents [B, 16, F, h, w] -> tokens [B, F * h / 2 * w / 2, dim] in (frame, row, column) order, in their dtype."""
    # An adopted model can keep this layer in float32 among half precision ones.
    source = latents if casts_weights(conv) else latents.to(conv.weight.dtype)
    return conv(source).to(latents.dtype).flatten(2).transpose(1, 2)


def unpatchify(tokens: Tensor, frames: int, grid: tuple[int, int], patch: tuple[int, int, int]) -> Tensor:
    """tokens [B, frames * rows * columns, prod(patch) * C] -> latents [B, C, frames, rows * 2, columns * 2]."""
    (rows, columns), (p_frame, p_row, p_column) = grid, patch
    x = tokens.unflatten(-1, (p_frame, p_row, p_column, -1)).unflatten(1, (frames, rows, columns))
    # b f r c | pf pr pc | channel  ->  b channel | f pf | r pr | c pc
    x = x.permute(0, 7, 1, 4, 2, 5, 3, 6)
    return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)


class HeadModules(nn.Module):
    """Weights of the output layer."""

    def __init__(self, dim: int, out_channels: int, eps: float, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.norm = operations.LayerNorm(dim, elementwise_affine=False, eps=eps, **factory)
        self.head = operations.Linear(dim, out_channels, **factory)
        self.modulation = nn.Parameter(small_weight(1, 2, dim, **factory))


def run_head(head: Any, hidden: Tensor, time: Tensor) -> Tensor:
    """hidden [B, L, dim], time float32 [1, 1, dim] -> float32 [B, L, patch * out_dim]."""
    shift, scale = (head.modulation.to(time) + time).split(1, dim=1)
    return linear_float32(head.head, head.norm(hidden.float()) * (1 + scale) + shift)
