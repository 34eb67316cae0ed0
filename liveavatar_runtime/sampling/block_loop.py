"""Denoise the blocks of a video on one device.

Block b at step s needs only block b at step s - 1 and the caches that the blocks before b wrote at step s. So several
blocks can be under way at once, each one step behind the one before it; all of them go through the model as one batch.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..aligned import align_weights
from ..dit.kv_cache import CacheShape, KVCache, ResidentCache, Sink
from ..dit.model import BlockContext, CausalWanS2V, Row, VideoContext
from ..errors import InputError
from ..planning.duration import FRAMES_PER_BLOCK, LATENT_FRAMES_PER_BLOCK
from .conditions import Conditions
from .plan import ClipPlan
from .schedule import Schedule, flow_matching_schedule

MakeCache = Callable[[CacheShape, range, torch.dtype, torch.device], KVCache]
KeepRings = Callable[[int], bool]
"""Whether the state after this block is wanted, to continue from it later."""


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
    """A finished block: number in the video, clip, latents float32 [16, 3, h, w] on the CPU, in the model's space.

    `rings`: when asked for, what the blocks after this one need of the caches (names: `KVCache.ring`).
    """

    index: int
    clip: int
    latents: Tensor
    rings: dict[str, Tensor] | None = None


@dataclass(frozen=True)
class RunStart:
    """Where a run begins.

    `first_block`: the first block to yield. `first_frames`: first latent frame, float32 [16, 1, h, w], of the earlier
    blocks in `ClipPlan.sink_sources(first_block)` (of those before the warm-up, if it warms up). `rings`: the state
    after the block before; with None the blocks of at least one ring before it are sampled again and thrown away,
    which is exact only if that reaches block 0.
    """

    first_block: int = 0
    first_frames: Mapping[int, Tensor] = field(default_factory=dict)
    rings: Mapping[str, Tensor] | None = None


FROM_THE_BEGINNING = RunStart()


@dataclass
class BlockInFlight:
    """A block under way: what it has become before step `step`, float32 [16, 3, h, w] on the device."""

    index: int
    context: BlockContext
    sink: Sink
    latents: Tensor
    step: int = 0
    rings: dict[str, Tensor] | None = None


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
        cls,
        model: CausalWanS2V,
        plan: ClipPlan,
        conditions: Conditions,
        dtype: torch.dtype,
        device: torch.device,
        make_cache: MakeCache = ResidentCache,
    ) -> "BlockSampler":
        """Make the caches and embed the text."""
        # Not where weights are loaded: their owner may have put others in their place since.
        align_weights(model, device)
        schedule = flow_matching_schedule(plan.steps, plan.shift)
        shape = model.cache_shape(plan.grid, plan.steps, plan.window_blocks, LATENT_FRAMES_PER_BLOCK)
        video = model.video_context(conditions.text, schedule.timesteps, model.layers, dtype, device)
        cache = make_cache(shape, model.layers, dtype, device)
        return cls(model, plan, conditions, schedule, video, cache, dtype, device)

    def make_sink(self, reference: Tensor) -> Sink:
        """Prefill with a reference latent [16, 1, h, w] and the motion history; it counts once a block uses it."""
        sink = Sink()
        tokens = self.model.embed_sink(self._moved(reference)[None], self._moved(self.conditions.motion)[None])
        self.model.run_sink_layers(tokens, self.video, self.plan.grid, self.cache, sink)
        return sink

    def begin_block(self, block: int, sink: Sink) -> BlockInFlight:
        """Noise, positions and voice of a block; blocks begin in order."""
        masks = self.conditions.actor_masks
        context = self.model.block_context(
            block,
            LATENT_FRAMES_PER_BLOCK,
            self.plan.grid,
            self.conditions.audio.frames(block * FRAMES_PER_BLOCK, FRAMES_PER_BLOCK),
            self.cache.layers,
            self.dtype,
            self.device,
            None if masks is None else masks[:, :LATENT_FRAMES_PER_BLOCK],
        )
        return BlockInFlight(block, context, sink, self.plan.block_noise(block).to(self.device))

    def advance(self, blocks: Sequence[BlockInFlight], after_step: AfterStep | None = None) -> None:
        """One evaluation of each block, oldest first, in one batch; all are at different steps."""
        rows = [Row(b.context, b.step, b.sink, self.plan.distance(b.index, b.step)) for b in blocks]
        latents = torch.stack([block.latents for block in blocks])
        hidden = self.model.embed(latents.to(self.dtype))
        hidden = self.model.run_layers(hidden, self.video, rows, self.cache)
        velocities = self.model.velocity(hidden, self.video, rows)
        for block, velocity in zip(blocks, velocities, strict=True):
            if after_step is not None:
                sigma = self.schedule.sigmas[block.step]
                after_step(Evaluation(block.index, block.step, sigma, block.latents, velocity))
        for block, velocity in zip(blocks, velocities, strict=True):
            block.latents = self.schedule.advance(block.latents, velocity, block.step)
            block.step += 1

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(device=self.device, dtype=self.dtype)


class BlockRun(Iterator[LatentBlock]):
    """Blocks of a plan in order, made when they are asked for, with at most `at_once` of them under way."""

    def __init__(
        self,
        make_sampler: Callable[[], BlockSampler],
        plan: ClipPlan,
        start: RunStart,
        at_once: int = 1,
        after_step: AfterStep | None = None,
        keep_rings: KeepRings | None = None,
    ) -> None:
        self._make_sampler, self._plan, self._start = make_sampler, plan, start
        self._at_once, self._after_step, self._keep_rings = at_once, after_step, keep_rings
        self._sampler: BlockSampler | None = None
        self._flying: deque[BlockInFlight] = deque()
        self._sinks: dict[int | None, Sink] = {}
        self._first_frames = dict(start.first_frames)
        self._sources = plan.sink_sources()
        self._next = self._last = 0

    def __next__(self) -> LatentBlock:
        with torch.inference_mode():
            while True:
                block = self._advance(self._prepared())
                if block.index >= self._start.first_block:
                    return LatentBlock(block.index, self._plan.clip_of(block.index), block.latents.cpu(), block.rings)

    def rings(self) -> dict[str, Tensor] | None:
        """State after the last finished block; None when a later one is past it or nothing was finished."""
        if self._sampler is None or len(self._flying) > 1 or self._last < self._start.first_block:
            return None
        return self._rings_after(self._sampler, self._last)

    def close(self) -> None:
        """Let go of the model and the caches."""
        self._sampler = None
        self._flying.clear()
        self._sinks.clear()

    def _prepared(self) -> BlockSampler:
        if self._sampler is None:
            sampler, start = self._make_sampler(), self._start
            first = start.first_block
            if start.rings is not None:
                for step in sampler.cache.steps:
                    sampler.cache.load_ring(step, first - 1, start.rings)
            elif first:
                first = sampler.cache.shape.warm_up_start(first)
                sampler.cache.start_at(first)
            self._check_first_frames(first)
            self._sampler, self._next, self._last = sampler, first, first - 1
        return self._sampler

    def _check_first_frames(self, first: int) -> None:
        missing = [s for s in self._plan.sink_sources(first) if s < first and s not in self._first_frames]
        if missing:
            raise InputError(f"to begin at block {first}, the first latent frame of block {missing[0]} is needed")

    def _advance(self, sampler: BlockSampler) -> BlockInFlight:
        """Evaluations until the oldest block is finished."""
        while True:
            if self._may_begin():
                sink = self._sink_for(sampler, self._plan.sink_source(self._next))
                self._flying.append(sampler.begin_block(self._next, sink))
                self._next += 1
            if not self._flying:
                self.close()
                raise StopIteration
            sampler.advance(self._flying, self._after_step)
            self._keep_wanted_rings(sampler)
            if self._flying[0].step == self._plan.steps:
                block = self._flying.popleft()
                self._last = block.index
                if block.index in self._sources:
                    self._first_frames[block.index] = block.latents[:, :1].clone()
                return block

    def _may_begin(self) -> bool:
        """Whether the next block exists, has room, and the block that its sink is made from is finished."""
        if self._next >= self._plan.num_blocks or len(self._flying) >= self._at_once:
            return False
        source = self._plan.sink_source(self._next)
        return source is None or source in self._first_frames

    def _sink_for(self, sampler: BlockSampler, source: int | None) -> Sink:
        if source not in self._sinks:
            reference = sampler.conditions.reference if source is None else self._first_frames[source]
            # Blocks under way hold the sinks that they still need.
            self._sinks = {source: sampler.make_sink(reference)}
        return self._sinks[source]

    def _keep_wanted_rings(self, sampler: BlockSampler) -> None:
        """A step's ring is copied when the block has just gone through it: later blocks overwrite it."""
        for block in self._flying:
            if self._keep_rings is not None and self._keep_rings(block.index):
                block.rings = {**(block.rings or {}), **sampler.cache.ring(block.step - 1, block.index)}

    def _rings_after(self, sampler: BlockSampler, block: int) -> dict[str, Tensor]:
        return {name: t for step in sampler.cache.steps for name, t in sampler.cache.ring(step, block).items()}


def sample_blocks(
    model: CausalWanS2V,
    plan: ClipPlan,
    conditions: Conditions,
    dtype: torch.dtype,
    device: torch.device,
    after_step: AfterStep | None = None,
) -> BlockRun:
    """All blocks of a plan in order; nothing is computed before the first one is asked for."""
    return BlockRun(
        lambda: BlockSampler.start(model, plan, conditions, dtype, device),
        plan,
        FROM_THE_BEGINNING,
        after_step=after_step,
    )
