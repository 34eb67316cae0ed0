"""Voice in the transformer: causal encoder of wav2vec2 features, and its injection after chosen layers.

Source: Wan2.2-S2V. A clip's features (25 hidden states) are mixed with learned weights, encoded by causal
convolutions to one global and four local tokens a latent frame (a fifth, learned token pads), and attended to by the
noisy tokens of that latent frame, whose LayerNorm is modulated by the global token ("attn_norm").
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..aligned import aligned
from ..config import AvatarConfig
from .attention import AttentionKernel, AttentionModules, KeysValues, cross_attention, project_keys_values
from .elementwise import add_to, modulate_in_dtype

NORM_EPS = 1e-6
ADAPTIVE_NORM_EPS = 1e-5
"""eps of the modulated LayerNorm; unlike all others, as in the original."""


class CausalConv1d(nn.Module):
    """Weights of a convolution over time that looks back only; the first frame is repeated before the start."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.conv = operations.Conv1d(channels_in, channels_out, 3, stride=stride, **factory)


class MotionEncoder(nn.Module):
    """Weights of the convolution stack (the original's `casual_audio_encoder.encoder`)."""

    def __init__(self, config: AvatarConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        dim, tokens = config.dim, config.num_audio_token
        conv = {"operations": operations, **factory}
        self.conv1_local = CausalConv1d(config.audio_dim, dim // 4 * tokens, 1, **conv)
        self.conv1_global = CausalConv1d(config.audio_dim, dim // 4, 1, **conv)
        self.conv2 = CausalConv1d(dim // 4, dim // 2, 2, **conv)
        self.conv3 = CausalConv1d(dim // 2, dim, 2, **conv)
        for number, width in enumerate((dim // 4, dim // 2, dim), start=1):
            norm = operations.LayerNorm(width, elementwise_affine=False, eps=NORM_EPS, **factory)
            self.add_module(f"norm{number}", norm)
        self.final_linear = operations.Linear(dim, dim, **factory)
        self.padding_tokens = nn.Parameter(torch.zeros(1, 1, 1, dim, **factory))


class CausalAudioEncoder(nn.Module):
    """Weights of the layer mix and the convolution stack (the original's `casual_audio_encoder`)."""

    def __init__(self, config: AvatarConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.encoder = MotionEncoder(config, operations, **factory)
        self.weights = nn.Parameter(torch.full((1, config.audio_layers, 1, 1), 0.01, **factory))


@dataclass(frozen=True)
class AudioTokens:
    """Encoded voice of a block: `glob` [actors, frames, 1, dim], `local` [actors, frames, tokens + 1, dim].

    `strength`: factor of what it adds to the hidden states; at 1 nothing is multiplied.
    """

    glob: Tensor
    local: Tensor
    strength: float = 1.0


def mix_layers(encoder: Any, features: Tensor) -> Tensor:
    """features [actors, layers, audio_dim, T] -> silu(w)-weighted mean over the layers [actors, audio_dim, T]."""
    weights = F.silu(encoder.weights.to(features))
    return (features * weights / weights.sum(dim=1, keepdim=True)).sum(dim=1)


def encode_audio(encoder: Any, features: Tensor, num_tokens: int) -> AudioTokens:
    """features [actors, layers, audio_dim, T video frames] -> tokens of ceil(T / 4) latent frames."""
    mixed, stack = mix_layers(encoder, features), encoder.encoder
    local = _conv(stack.conv1_local, mixed).unflatten(1, (num_tokens, -1)).flatten(0, 1)
    local = _later_convs(stack, local).unflatten(0, (-1, num_tokens)).transpose(1, 2)
    padding = stack.padding_tokens.to(local).expand(local.shape[0], local.shape[1], -1, -1)
    glob = stack.final_linear(_later_convs(stack, _conv(stack.conv1_global, mixed)))
    return AudioTokens(glob.unsqueeze(2), torch.cat([local, padding], dim=2))


def encode_block_audio(encoder: Any, features: Tensor, num_tokens: int) -> AudioTokens:
    """Tokens of one block from its own video frames, features [actors, layers, audio_dim, frames].

    The original puts 73 copies of the block's first frame in front and drops the 19 latent frames they give. The
    convolutions already repeat the first frame without end (replicate padding), so one copy, which keeps the phase
    of the stride of 4, gives the same tokens.
    """
    tokens = encode_audio(encoder, torch.cat([features[..., :1], features], dim=-1), num_tokens)
    # A stage that gets the tokens from another one has them in memory of their own.
    return AudioTokens(aligned(tokens.glob[:, 1:]), aligned(tokens.local[:, 1:]))


def _conv(conv: Any, x: Tensor) -> Tensor:
    return conv.conv(F.pad(x, (2, 0), mode="replicate"))


def _later_convs(stack: Any, x: Tensor) -> Tensor:
    """x [B, dim / 4, T] -> [B, ceil(T / 4), dim]."""
    x = F.silu(stack.norm1(x.transpose(1, 2))).transpose(1, 2)
    x = F.silu(stack.norm2(_conv(stack.conv2, x).transpose(1, 2))).transpose(1, 2)
    return F.silu(stack.norm3(_conv(stack.conv3, x).transpose(1, 2)))


class AdaptiveLayerNorm(nn.Module):
    """LayerNorm without affine weights, scale and shift from SiLU + Linear of an embedding."""

    def __init__(self, dim: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.linear = operations.Linear(dim, 2 * dim, **factory)
        self.norm = operations.LayerNorm(dim, elementwise_affine=False, eps=ADAPTIVE_NORM_EPS, **factory)


class AudioInjector(nn.Module):
    """Weights of the audio cross-attentions, in the order of `audio_inject_layers`."""

    def __init__(self, config: AvatarConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        count = len(config.audio_inject_layers)
        attention = (AttentionModules(config.dim, config.eps, operations, **factory) for _ in range(count))
        norms = (AdaptiveLayerNorm(config.dim, operations, **factory) for _ in range(count))
        self.injector = nn.ModuleList(attention)
        self.injector_adain_layers = nn.ModuleList(norms)


@dataclass(frozen=True)
class Injection:
    """What one injection layer needs of a block's voice: shift, 1 + scale [actors * frames, 1, dim]; keys, values;
    strength [actors * frames, 1, 1], None where it is 1."""

    shift: Tensor
    one_and_scale: Tensor
    context: KeysValues
    strength: Tensor | None = None


def prepare_injection(injector: Any, index: int, tokens: AudioTokens, head_dim: int) -> Injection:
    """Modulation, keys and values of injection `index`: the same for all steps of the block, so made once."""
    glob, local = tokens.glob[:, :, 0].flatten(0, 1), tokens.local.flatten(0, 1)
    shift, scale = injector.injector_adain_layers[index].linear(F.silu(glob)).unsqueeze(1).chunk(2, dim=-1)
    strength = None if tokens.strength == 1.0 else shift.new_full((len(shift), 1, 1), tokens.strength)
    return Injection(shift, 1 + scale, project_keys_values(injector.injector[index], local, head_dim), strength)


def join_injections(injections: Sequence[Injection]) -> Injection:
    """Those of several blocks as one batch."""
    if len(injections) == 1:
        return injections[0]
    strength = None
    if any(i.strength is not None for i in injections):
        ones = (i.shift.new_ones(len(i.shift), 1, 1) if i.strength is None else i.strength for i in injections)
        strength = torch.cat(list(ones))
    return Injection(
        torch.cat([i.shift for i in injections]),
        torch.cat([i.one_and_scale for i in injections]),
        KeysValues(torch.cat([i.context.k for i in injections]), torch.cat([i.context.v for i in injections])),
        strength,
    )


@dataclass(frozen=True)
class InjectionLayer:
    """What attends to the voice: the modules of injection `index` of a model, and how they compute."""

    injector: Any
    index: int
    head_dim: int
    kernel: AttentionKernel

    def __call__(self, hidden: Tensor, injection: Injection) -> Tensor:
        """hidden [actors * frames, tokens, dim] -> what the voice adds to it."""
        normed = self.injector.injector_adain_layers[self.index].norm(hidden)
        normed = modulate_in_dtype(normed, injection.shift, injection.one_and_scale)
        modules = self.injector.injector[self.index]
        return cross_attention(modules, normed, injection.context, self.head_dim, self.kernel)


def inject_audio(
    layer: InjectionLayer, hidden: Tensor, injection: Injection, frames: int, actor_masks: Tensor | None
) -> Tensor:
    """Add the voice to the noisy tokens, hidden [B, frames * tokens, dim]; `injection` is that of B blocks.

    `actor_masks` [actors, frames, tokens, 1] weights every actor's residual; None with one actor.
    """
    batch, actors = len(hidden), injection.shift.shape[0] // (frames * len(hidden))
    by_frame = hidden.unflatten(1, (1, frames, -1)).expand(-1, actors, -1, -1, -1).flatten(0, 2)
    residual = layer(by_frame, injection)
    if injection.strength is not None:
        residual = residual * injection.strength
    residual = residual.unflatten(0, (batch, actors, frames))
    if actor_masks is not None:
        residual = residual * actor_masks
    # One actor needs no sum.
    residual = residual[:, 0] if actors == 1 else residual.sum(dim=1)
    return add_to(hidden, residual.flatten(1, 2))
