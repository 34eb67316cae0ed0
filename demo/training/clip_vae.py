"""The VAE as its training computes it: pictures or short clips of many people at once, with gradients.

Only a part of the time taps is used, the others stay zero, so that most of the work is on single frames: the encoder
looks at the four frames of a latent alone, the decoder also at the latents before, at their own small size. Before a
clip, its first latent has always been there. The numbers are those of the runtime's streaming calls.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liveavatar_runtime.vae import WanVAE
from liveavatar_runtime.vae.layers import PAST_FRAMES, AttentionBlock, Downsample, ResidualBlock, Upsample

Convolve = Callable[[Any, Tensor], Tensor]
STRIDE = 4


def begin_as_pictures(vae: WanVAE) -> None:
    """First weights: every time tap but the last is zero; frames that share a latent have its last frame's features."""
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


@torch.no_grad()
def begin_as_clips(vae: WanVAE, noise: float = 0.5) -> None:
    """Go on from pictures: pairs of frames begin with their mean, and with random parts of their difference."""
    layer: Any
    for layer in vae.modules():
        if isinstance(layer, (Downsample, Upsample)) and layer.temporal:
            weight = layer.time_conv.weight
            channels = weight.shape[1]
            difference = noise / channels**0.5 * torch.randn(channels, channels)
            if isinstance(layer, Downsample):
                weight[:, :, 1, 0, 0] = torch.eye(channels) / 2 - difference
                weight[:, :, 2, 0, 0] = torch.eye(channels) / 2 + difference
            else:
                weight[:channels, :, 2, 0, 0] -= difference
                weight[channels:, :, 2, 0, 0] += difference


def encode_pictures(vae: WanVAE, pixels: Tensor) -> Tensor:
    """[B, 3, H, W] in -1..1 -> raw latents [B, 16, H / 8, W / 8]."""
    return _encode(vae, pixels, _layer)


def decode_pictures(vae: WanVAE, latents: Tensor) -> Tensor:
    """Raw latents [B, 16, h, w] -> pixels [B, 3, 8h, 8w]."""
    x = _conv(vae.decoder.conv1, _conv(vae.conv2, latents))
    for stack in vae.decoder.stacks():
        for layer in stack:
            x = _layer(layer, x)
    return _head(vae.decoder, x)


def encode_clips(vae: WanVAE, pixels: Tensor) -> Tensor:
    """[B, 3, 4 n, H, W] in -1..1 -> raw latents [B, 16, n, H / 8, W / 8]."""

    def layer_of_clips(layer: Any, x: Tensor) -> Tensor:
        x = _layer(layer, x)
        if isinstance(layer, Downsample) and layer.temporal:
            pairs = x.unflatten(0, (-1, 2)).flatten(1, 2)
            weight = layer.time_conv.weight[:, :, 1:, 0, 0].transpose(1, 2).flatten(1)
            x = F.conv2d(pairs, weight[:, :, None, None], layer.time_conv.bias)
        return x

    latents = _encode(vae, pixels.transpose(1, 2).flatten(0, 1), layer_of_clips)
    return latents.unflatten(0, (pixels.shape[0], -1)).transpose(1, 2)


def decode_clips(vae: WanVAE, latents: Tensor, shown: int | None = None) -> Tensor:
    """Raw latents [B, 16, n, h, w] -> pixels [B, 3, 4 shown, 8h, 8w] of the last `shown` ones (default: all)."""
    batch, _, frames = latents.shape[:3]
    shown = shown or frames
    convolve = _with_past(frames)
    x = convolve(vae.decoder.conv1, _conv(vae.conv2, latents.transpose(1, 2).flatten(0, 1)))
    rate = 1
    for stack in vae.decoder.stacks():
        for layer in stack:
            if isinstance(layer, Upsample) and layer.temporal:
                x, rate, convolve = _double(layer.time_conv, x, frames, rate), 2 * rate, _conv
                kept = min(2 * frames, shown * rate + (PAST_FRAMES if rate < STRIDE else 0))
                x = x.unflatten(0, (batch, -1))[:, -kept:].flatten(0, 1)
                frames = kept
            x = _layer(layer, x, convolve)
    return _head(vae.decoder, x).unflatten(0, (batch, -1)).transpose(1, 2)


def _encode(vae: WanVAE, pixels: Tensor, run: Convolve) -> Tensor:
    x = _conv(vae.encoder.conv1, pixels.contiguous(memory_format=torch.channels_last))
    for stack in vae.encoder.stacks():
        for layer in stack:
            x = run(layer, x)
    return _conv(vae.conv1, _head(vae.encoder, x))[:, : vae.config.z_dim]


def _head(coder: Any, x: Tensor) -> Tensor:
    return _conv(coder.head[2], _norm_silu(coder.head[0], x))


def _layer(layer: Any, x: Tensor, convolve: Convolve | None = None) -> Tensor:
    """Any layer, on frames [N, C, H, W] one by one; `convolve` may look at others."""
    convolve = convolve or _conv
    if isinstance(layer, ResidualBlock):
        y = convolve(layer.residual[2], _norm_silu(layer.residual[0], x))
        y = convolve(layer.residual[6], _norm_silu(layer.residual[3], y))
        return y + (x if isinstance(layer.shortcut, nn.Identity) else _conv(layer.shortcut, x))
    if isinstance(layer, AttentionBlock):
        return x + layer._attend(x)
    assert isinstance(layer, (Downsample, Upsample))
    return layer.resample(x)


def _conv(conv: Any, x: Tensor) -> Tensor:
    weight = conv.weight[:, :, -1].contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, weight, conv.bias, padding=weight.shape[-1] // 2)


def _with_past(frames: int) -> Convolve:
    def convolve(conv: Any, x: Tensor) -> Tensor:
        past = _past(x, frames, 1).transpose(1, 2).contiguous()
        return conv(past).transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)

    return convolve


def _double(conv: Any, x: Tensor, frames: int, rate: int) -> Tensor:
    """The temporal half of `Upsample`: twice as many frames."""
    past = _past(x, frames, rate)
    joined = torch.cat([past[:, tap : tap + frames] for tap in range(PAST_FRAMES + 1)], dim=2).flatten(0, 1)
    weight = conv.weight[..., 0, 0].transpose(1, 2).flatten(1)
    pairs = F.conv2d(joined, weight[:, :, None, None], conv.bias)
    return pairs.unflatten(1, (2, -1)).flatten(0, 1).contiguous(memory_format=torch.channels_last)


def _past(x: Tensor, frames: int, rate: int) -> Tensor:
    """[B * frames, ...] -> [B, 2 + frames, ...], the frames of the first latent repeated in front."""
    clips = x.unflatten(0, (-1, frames))
    first = clips[:, :rate].repeat(1, PAST_FRAMES // rate, 1, 1, 1)
    return torch.cat([first, clips], dim=1)


def _norm_silu(norm: Any, x: Tensor) -> Tensor:
    return F.silu(cast(Tensor, Norm.apply(x, norm.gamma.flatten())))


class Norm(torch.autograd.Function):
    """`RMSNorm` with a gradient in few passes: the automatic one takes half of the time of a training step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor) -> Tensor:
        last = x.movedim(1, -1)
        scale = torch.linalg.vecdot(last, last).div_(x.shape[1]).add_(1e-12).rsqrt_()[:, None]
        y = x * scale
        ctx.save_for_backward(y, scale, gamma)
        return y * gamma[:, None, None]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        y, scale, gamma = ctx.saved_tensors
        [gradient] = gradients
        along = gradient * y
        mean = torch.einsum("nchw,c->nhw", along, gamma)[:, None] / y.shape[1]
        return (gradient * gamma[:, None, None]).addcmul_(y, mean, value=-1).mul_(scale), along.sum(dim=(0, 2, 3))
