"""The VAE as an autoencoder of single pictures: where its training begins, at a twelfth of the cost of video.

Only the last time tap of each convolution is used (the others start at zero), so that a video VAE with the trained
weights treats frames one by one: `begin_as_pictures` sets that up, and training on video continues from there.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liveavatar_runtime.vae import WanVAE
from liveavatar_runtime.vae.layers import AttentionBlock, Downsample, ResidualBlock, Upsample


def begin_as_pictures(vae: WanVAE) -> None:
    """First weights: every time tap but the last is zero; a pair of frames shares its last frame's features."""
    module: Any
    for module in vae.modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size == (3, 3, 3):
            nn.init.kaiming_uniform_(module.weight[:, :, 2], a=1.0)
            module.weight.data[:, :, :2] = 0
        if isinstance(module, ResidualBlock):
            last: Any = module.residual[6]
            last.weight.data *= 0.3
        if isinstance(module, (Downsample, Upsample)) and module.temporal:
            channels = module.time_conv.in_channels
            copies = module.time_conv.out_channels // channels
            module.time_conv.weight.data.zero_()
            module.time_conv.weight.data[:, :, 2, 0, 0] = torch.eye(channels).repeat(copies, 1)
            module.time_conv.bias.data.zero_()


def encode_pictures(vae: WanVAE, pixels: Tensor) -> Tensor:
    """[B, 3, H, W] in -1..1 -> raw latents [B, 16, H / 8, W / 8]."""
    x = _coder(vae.encoder, pixels.contiguous(memory_format=torch.channels_last))
    return _conv(vae.conv1, x)[:, : vae.config.z_dim]


def decode_pictures(vae: WanVAE, latents: Tensor) -> Tensor:
    """Raw latents [B, 16, h, w] -> pixels [B, 3, 8h, 8w]."""
    return _coder(vae.decoder, _conv(vae.conv2, latents))


def _coder(coder: Any, x: Tensor) -> Tensor:
    x = _conv(coder.conv1, x)
    for stack in coder.stacks():
        for layer in stack:
            x = _layer(layer, x)
    return _conv(coder.head[2], F.silu(_norm(coder.head[0], x)))


def _layer(layer: Any, x: Tensor) -> Tensor:
    if isinstance(layer, ResidualBlock):
        y = _conv(layer.residual[2], F.silu(_norm(layer.residual[0], x)))
        y = _conv(layer.residual[6], F.silu(_norm(layer.residual[3], y)))
        return y + (x if isinstance(layer.shortcut, nn.Identity) else _conv(layer.shortcut, x))
    if isinstance(layer, AttentionBlock):
        return x + layer._attend(x)
    assert isinstance(layer, (Downsample, Upsample))
    return layer.resample(x)


def _conv(conv: Any, x: Tensor) -> Tensor:
    weight = conv.weight[:, :, -1].contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, weight, conv.bias, padding=weight.shape[-1] // 2)


def _norm(norm: Any, x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-12) * norm.gamma.flatten()[:, None, None]
