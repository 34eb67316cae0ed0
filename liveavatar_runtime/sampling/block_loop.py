"""The block loop on one device: denoise block after block, each through all its steps."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..dit.kv_cache import KVCache
from ..dit.model import CausalWanS2V, VideoContext
from ..planning.duration import FRAMES_PER_BLOCK, LATENT_FRAMES_PER_BLOCK
from .conditions import Conditions
from .plan import ClipPlan
from .schedule import Schedule, flow_matching_schedule


@dataclass(frozen=True)
class Evaluation:
    """One run of the model: noisy `latents` and `velocity`, float32 [16, 3, h, w] on the model's device."""

    block: int
    step: int
    sigma: float
    latents: Tensor
    velocity: Tensor

    def clean(self) -> Tensor:
        """What the model expects without noise: x - sigma * v."""
        return self.latents - self.sigma * self.velocity


AfterStep = Callable[[Evaluation], None]
"""Called after each evaluation; may raise to stop."""


@dataclass(frozen=True)
class LatentBlock:
    """A finished block: number in the video, clip, latents float32 [16, 3, h, w] on the CPU, in the model's space."""

    index: int
    clip: int
    latents: Tensor


@dataclass(frozen=True)
class BlockSampler:
    """State of one video on one device: model, plan, conditions, and the caches that the blocks fill."""

    model: CausalWanS2V
    plan: ClipPlan
    conditions: Conditions
    schedule: Schedule
    video: VideoContext
    cache: KVCache
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def start(
        cls, model: CausalWanS2V, plan: ClipPlan, conditions: Conditions, dtype: torch.dtype, device: torch.device
    ) -> "BlockSampler":
        """Make the caches, embed the text, prefill the sink with the reference picture."""
        schedule = flow_matching_schedule(plan.steps, plan.shift)
        shape = model.cache_shape(plan.grid, plan.steps, plan.window_blocks, LATENT_FRAMES_PER_BLOCK)
        video = model.video_context(conditions.text, schedule.timesteps, model.layers, dtype, device)
        cache = KVCache(shape, model.layers, dtype, device)
        sampler = cls(model, plan, conditions, schedule, video, cache, dtype, device)
        sampler.fill_sink(conditions.reference)
        return sampler

    def fill_sink(self, reference: Tensor) -> None:
        """Prefill the sink of all steps with a reference latent [16, 1, h, w] and the motion history."""
        tokens = self.model.embed_sink(self._moved(reference)[None], self._moved(self.conditions.motion)[None])
        self.model.run_sink_layers(tokens, self.video, self.plan.grid, self.cache)

    def sample_block(self, block: int, after_step: AfterStep | None = None) -> Tensor:
        """Latents float32 [16, 3, h, w] of one block, on the device; blocks must come in order."""
        audio = self.conditions.audio.frames(block * FRAMES_PER_BLOCK, FRAMES_PER_BLOCK)
        context = self.model.block_context(
            block,
            LATENT_FRAMES_PER_BLOCK,
            self.plan.grid,
            audio,
            self.cache.layers,
            self.dtype,
            self.device,
            self._block_masks(),
        )
        latents = self.plan.block_noise(block)[None].to(self.device)
        for step in range(self.plan.steps):
            hidden = self.model.embed(latents.to(self.dtype))
            distance = self.plan.distance(block, step)
            hidden = self.model.run_layers(hidden, self.video, context, step, self.cache, distance)
            velocity = self.model.velocity(hidden, self.video, context, step)
            if after_step is not None:
                after_step(Evaluation(block, step, self.schedule.sigmas[step], latents[0], velocity[0]))
            latents = self.schedule.advance(latents, velocity, step)
        return latents[0]

    def _block_masks(self) -> Tensor | None:
        masks = self.conditions.actor_masks
        return None if masks is None else masks[:, :LATENT_FRAMES_PER_BLOCK]

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(device=self.device, dtype=self.dtype)


def sample_blocks(
    model: CausalWanS2V,
    plan: ClipPlan,
    conditions: Conditions,
    dtype: torch.dtype,
    device: torch.device,
    after_step: AfterStep | None = None,
) -> Iterator[LatentBlock]:
    """All blocks of a plan in order; nothing is computed before the first one is asked for."""
    with torch.inference_mode():
        sampler = BlockSampler.start(model, plan, conditions, dtype, device)
    first_frame: Tensor | None = None
    for block in range(plan.num_blocks):
        with torch.inference_mode():
            if plan.renews_sink(block):
                assert first_frame is not None
                sampler.fill_sink(first_frame)
            latents = sampler.sample_block(block, after_step)
        if first_frame is None:
            first_frame = latents[:, :1].clone()
        yield LatentBlock(block, plan.clip_of(block), latents.cpu())
