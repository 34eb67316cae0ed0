"""What a plan costs on a model: floating point operations, weights, and what travels between stages.

An operation is a multiplication or an addition of a matrix product or attention; norms, gates and copies are not
counted, as they take their time beside the products, which `Card.flops` (a sustained rate) allows for.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from ..config import AvatarConfig
from ..dit.model import CausalWanS2V
from ..dit.placement import ON_DEVICE, Placement
from ..duration import FRAMES_PER_BLOCK, LATENT_FRAMES_PER_BLOCK
from ..pipeline.stage_model import share_of
from .memory import cache_shape, cache_traffic, ram_bytes, working_bytes

if TYPE_CHECKING:
    from ..sampling.plan import ClipPlan

DECODER_FLOPS_PER_PIXEL = 8_445_266
"""Of the Wan 2.1 VAE's streaming decoder, for each pixel of each frame."""
DECODER_PARAMETERS = 73_295_603
LATENT_BYTES = 4
"""Latents travel as float32."""


@dataclass(frozen=True)
class PartCosts:
    """Operations of one evaluation: of a layer, of the voice's injection after a layer, of what stands before the first
    layer and after the last one."""

    layer: float
    voice: float
    first: float
    last: float


@dataclass(frozen=True)
class Workload:
    """`weight_bytes`: bytes of a weight as it is kept (2 for bf16, 1 for fp8); `dtype` of activations and caches.

    `measured`: how many operations a layer could do in the time that each part takes, where that was measured
    (`planning.measured`).
    """

    config: AvatarConfig
    plan: "ClipPlan"
    dtype: torch.dtype = torch.bfloat16
    weight_bytes: float = 2.0
    measured: PartCosts | None = None

    @property
    def tokens(self) -> int:
        """Of a block."""
        rows, columns = self.plan.grid
        return LATENT_FRAMES_PER_BLOCK * rows * columns

    @property
    def counted(self) -> PartCosts:
        """Operations of a block's evaluation with a full ring; text, time and voice are embedded once a video or block,
        which is not counted."""
        config, tokens = self.config, self.tokens
        linear = 2 * tokens * (6 * config.dim**2 + 2 * config.dim * config.ffn_dim)
        attention = 4 * tokens * (cache_shape(config, self.plan).tokens + config.text_len) * config.dim
        voice = 2 * tokens * 2 * config.dim**2 + 4 * tokens * (config.num_audio_token + 1) * config.dim
        patches = 2 * tokens * config.dim * self._patch_values
        return PartCosts(linear + attention, voice, patches, patches)

    @property
    def costs(self) -> PartCosts:
        """As measured, else as counted."""
        return self.counted if self.measured is None else self.measured

    def layer_flops(self, layer: int) -> float:
        """One evaluation of a layer; the voice's injection included."""
        costs = self.costs
        return costs.layer + costs.voice * (layer in self.config.audio_inject_layers)

    def evaluation_flops(self, layers: range) -> float:
        """One evaluation of a stage with these layers."""
        inner = sum(map(self.layer_flops, layers))
        return inner + self.costs.first * (0 in layers) + self.costs.last * (self.config.num_layers - 1 in layers)

    def sink_layer_flops(self) -> float:
        """One layer over the sink's tokens, which attend to each other."""
        config, tokens = self.config, cache_shape(self.config, self.plan).sink_tokens
        linear = 2 * tokens * (6 * config.dim**2 + 2 * config.dim * config.ffn_dim)
        return linear + 4 * tokens * (tokens + config.text_len) * config.dim

    @property
    def _patch_values(self) -> int:
        frames, rows, columns = self.config.patch_size
        return self.config.out_dim * frames * rows * columns

    def decode_flops(self) -> float:
        """The video frames of a block."""
        return DECODER_FLOPS_PER_PIXEL * FRAMES_PER_BLOCK * self.plan.width * self.plan.height

    def weights(self, layers: range) -> int:
        """Bytes of weights of a stage with these layers."""
        parameters = sum(p.numel() for p in share_of(self._skeleton, layers).parameters())
        return int(parameters * self.weight_bytes)

    def layer_weights(self, layer: int) -> int:
        """Bytes of weights of one layer, the voice's included."""
        parts = [self._skeleton.blocks[layer]]
        if layer in self.config.audio_inject_layers:
            injector, number = self._skeleton.audio_injector, self.config.audio_inject_layers.index(layer)
            parts += [injector.injector[number], injector.injector_adain_layers[number]]
        return int(sum(p.numel() for part in parts for p in part.parameters()) * self.weight_bytes)

    @property
    def _skeleton(self) -> CausalWanS2V:
        return _skeleton_of(self.config)

    def working(self, layers: range, steps: range, placement: Placement = ON_DEVICE) -> int:
        """Caches, prompt and activations that a stage with these layers and steps has on its card."""
        return working_bytes(*self._share(layers, steps), self.dtype, placement)

    def ram(self, layers: range, steps: range, placement: Placement) -> int:
        """System memory that the caches of such a stage need."""
        return ram_bytes(*self._share(layers, steps), self.dtype, placement)

    def cache_traffic(self, layers: range, placement: Placement) -> int:
        """Bytes that one evaluation moves between RAM and a stage's card for its caches."""
        if placement.kv_cache == "device":
            return 0
        return max(cache_traffic(*self._share(layers, range(1)), self.dtype, placement))

    def _share(self, layers: range, steps: range) -> "tuple[AvatarConfig, ClipPlan]":
        config = replace(self.config, num_layers=len(layers), audio_inject_layers=())
        return config, replace(self.plan, steps=len(steps))

    def hidden_bytes(self) -> int:
        """A block's tokens between two layers."""
        return self.tokens * self.config.dim * self.dtype.itemsize

    def latents_bytes(self) -> int:
        height, width = self.plan.latent_size
        return self.config.out_dim * LATENT_FRAMES_PER_BLOCK * height * width * LATENT_BYTES


@lru_cache(maxsize=4)
def _skeleton_of(config: AvatarConfig) -> CausalWanS2V:
    return CausalWanS2V(config, device="meta")
