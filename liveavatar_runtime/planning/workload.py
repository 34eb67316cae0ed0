"""What a plan costs on a model: floating point operations, weights, and what travels between stages.

An operation is a multiplication or an addition of a matrix product or attention; norms, gates and copies are not
counted, as they take their time beside the products, which `Device.flops` (a sustained rate) allows for.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from ..config import AvatarConfig
from ..dit.kv_cache import CacheShape
from ..dit.model import CausalWanS2V
from ..duration import FRAMES_PER_BLOCK, LATENT_FRAMES_PER_BLOCK
from ..pipeline.stage_model import share_of
from .rates import Operations

if TYPE_CHECKING:
    from ..sampling.plan import ClipPlan

DECODER_FLOPS_PER_PIXEL = 8_445_266
"""Of the Wan 2.1 VAE's streaming decoder, for each pixel of each frame."""
DECODER_BYTES_PER_PIXEL = 43_970
"""That it reads and writes beside its convolutions; those of `EVALUATION_BYTES` hold for it too."""
EVALUATION_BYTES = 274
"""That a layer reads and writes beside products and attention, for each value of its hidden state: 166.6 GB at 688x368,
counted in the forms that a card was measured with."""
MOVED_TODAY = 0.52
"""Of both, what today's forms move by count (`benchmarks.traffic`: 87.3 GB, decoding 63.9). No card was measured with
them yet, so they only make the upper end of what is predicted."""
DECODER_PARAMETERS = 73_295_603
LATENT_BYTES = 4
"""Latents travel as float32."""


@dataclass(frozen=True)
class PartCosts:
    """What the parts of one evaluation cost: a layer, the voice's injection after a layer, what stands before the first
    layer and after the last one. Operations or seconds, as the name of what holds it says.

    What is done once a block, such as encoding its voice, is shared out over its evaluations.
    """

    layer: float
    voice: float
    first: float
    last: float

    def of_layer(self, layer: int, config: AvatarConfig) -> float:
        """A layer with the voice's injection after it, if there is one."""
        return self.layer + self.voice * (layer in config.audio_inject_layers)

    def evaluation(self, config: AvatarConfig) -> float:
        """One evaluation by the whole model."""
        layers = config.num_layers * self.layer + len(config.audio_inject_layers) * self.voice
        return self.first + layers + self.last


def cache_shape(config: AvatarConfig, plan: "ClipPlan") -> CacheShape:
    return CacheShape.of(config, plan.grid, plan.steps, plan.window_blocks, LATENT_FRAMES_PER_BLOCK)


@dataclass(frozen=True)
class Workload:
    """A plan on a model: all that memory and speed are predicted from.

    `dtype`: of activations and caches; `weight_bytes`: bytes of a weight as it is kept (2 for bf16, 1 for fp8), which
    counts where `stored_bytes`, of all weights together, is not known. `on_disk_bytes`: of weights that stay in their
    file. `embeds`: whether it has what stands before the layers; `blocks`: most that are under way at a time where they
    do not go through the model as one batch. `measured_flops`: how many operations a layer could do in the time that
    each part takes, where that was measured (`planning.measured`).
    """

    config: AvatarConfig
    plan: "ClipPlan"
    dtype: torch.dtype = torch.bfloat16
    weight_bytes: float = 2.0
    measured_flops: PartCosts | None = None
    stored_bytes: int | None = None
    on_disk_bytes: int = 0
    embeds: bool = True
    blocks: int = 1

    @property
    def layers(self) -> range:
        return range(self.config.num_layers)

    @property
    def steps(self) -> range:
        return range(self.plan.steps)

    def of_stage(self, layers: range, steps: range, blocks: int = 1) -> "Workload":
        """What a stage with these layers and steps samples, `blocks` at a time; its weights depend on which they are in
        the whole model (`weights`)."""
        injected = tuple(layer - layers.start for layer in self.config.audio_inject_layers if layer in layers)
        config = replace(self.config, num_layers=len(layers), audio_inject_layers=injected)
        plan = replace(self.plan, steps=len(steps))
        return replace(self, config=config, plan=plan, stored_bytes=None, embeds=0 in layers, blocks=blocks)

    @property
    def cache_shape(self) -> CacheShape:
        return cache_shape(self.config, self.plan)

    @property
    def tokens(self) -> int:
        """Of a block."""
        rows, columns = self.plan.grid
        return LATENT_FRAMES_PER_BLOCK * rows * columns

    @property
    def counted_flops(self) -> PartCosts:
        """Operations of a block's evaluation with a full ring; text, time and voice are embedded once a video or block,
        which is not counted."""
        config, tokens = self.config, self.tokens
        linear = 2 * tokens * (6 * config.dim**2 + 2 * config.dim * config.ffn_dim)
        attention = 4 * tokens * (self.cache_shape.tokens + config.text_len) * config.dim
        voice = 2 * tokens * 2 * config.dim**2 + 4 * tokens * (config.num_audio_token + 1) * config.dim
        patches = 2 * tokens * config.dim * self._patch_values
        return PartCosts(linear + attention, voice, patches, patches)

    @property
    def part_flops(self) -> PartCosts:
        """As measured, else as counted."""
        return self.counted_flops if self.measured_flops is None else self.measured_flops

    def layer_flops(self, layer: int) -> float:
        """One evaluation of a layer; the voice's injection included."""
        return self.part_flops.of_layer(layer, self.config)

    def evaluation_flops(self, layers: range) -> float:
        """One evaluation of a stage with these layers."""
        inner, parts = sum(map(self.layer_flops, layers)), self.part_flops
        return inner + parts.first * (0 in layers) + parts.last * (self.layers[-1] in layers)

    def operations(self, layers: range) -> Operations:
        """One evaluation of a stage with these layers, by kinds of work."""
        tokens, dim = self.tokens, self.config.dim
        attention = len(layers) * 4 * tokens * (self.cache_shape.tokens + self.config.text_len) * dim
        counted = replace(self, measured_flops=None).evaluation_flops(layers)
        return Operations(counted - attention, attention, len(layers) * EVALUATION_BYTES * tokens * dim)

    def decode_moved(self) -> float:
        """Bytes that decoding a block reads and writes."""
        return DECODER_BYTES_PER_PIXEL * FRAMES_PER_BLOCK * self.plan.width * self.plan.height

    def sink_layer_flops(self) -> float:
        """One layer over the sink's tokens, which attend to each other."""
        config, tokens = self.config, self.cache_shape.sink_tokens
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
        if self.stored_bytes is not None and layers == self.layers:
            # Nobody waits for a model to be made only to be counted.
            return self.stored_bytes
        return int(self._parameters(layers) * self.bytes_each)

    def layer_weights(self, layer: int) -> int:
        """Bytes of weights of one layer, the voice's included."""
        parts = [self._skeleton.blocks[layer]]
        if layer in self.config.audio_inject_layers:
            injector, number = self._skeleton.audio_injector, self.config.audio_inject_layers.index(layer)
            parts += [injector.injector[number], injector.injector_adain_layers[number]]
        return int(sum(p.numel() for part in parts for p in part.parameters()) * self.bytes_each)

    def called_weights(self, layer: int) -> int:
        """Bytes of weights that a call of one layer reads: without the keys and values of the text, which are made once
        a video, and without the voice's."""
        module: Any = self._skeleton.blocks[layer]
        text = module.cross_attn
        once = sum(p.numel() for part in (text.k, text.norm_k, text.v) for p in part.parameters())
        return int((sum(p.numel() for p in module.parameters()) - once) * self.bytes_each)

    @property
    def bytes_each(self) -> float:
        """Of a weight, the mean of all."""
        return self.weight_bytes if self.stored_bytes is None else self.stored_bytes / _parameters_of(self.config)

    def _parameters(self, layers: range) -> int:
        return sum(p.numel() for p in share_of(self._skeleton, layers).parameters())

    @property
    def _skeleton(self) -> CausalWanS2V:
        return _skeleton_of(self.config)

    def hidden_bytes(self) -> int:
        """A block's tokens between two layers."""
        return self.tokens * self.config.dim * self.dtype.itemsize

    def latents_bytes(self) -> int:
        height, width = self.plan.latent_size
        return self.config.out_dim * LATENT_FRAMES_PER_BLOCK * height * width * LATENT_BYTES


@lru_cache(maxsize=4)
def _skeleton_of(config: AvatarConfig) -> CausalWanS2V:
    return CausalWanS2V(config, device="meta")


@lru_cache(maxsize=4)
def _parameters_of(config: AvatarConfig) -> int:
    return sum(p.numel() for p in _skeleton_of(config).parameters())
