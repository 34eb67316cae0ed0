"""Evaluations of one video on one device: with the whole model, or with the layers and steps of a pipeline's stage.

Here is all that sampling does with the model, once. What runs it decides in which order blocks and steps are evaluated
(`block_run` on one device, a stage's schedule in a pipeline), and where what enters the layers comes from.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Protocol

import torch
from torch import Tensor

from ..dit.audio import AudioTokens
from ..dit.embeddings import TimeModulation
from ..dit.kv_cache import CacheShape, KVCache, ResidentCache, Sink
from ..dit.model import BlockContext, BlockPlace, CausalWanS2V, Row, TextContext, VideoContext
from ..dit.placement import Placement
from ..dit.staged_cache import StagedCache
from ..duration import FRAMES_PER_BLOCK, LATENT_FRAMES_PER_BLOCK
from ..errors import InputError
from ..pinned_memory import BY_DRIVER, Pinning
from .noise_schedule import flow_matching_schedule
from .plan import ClipPlan, SinkSource
from .run import RunStart, SamplingRequest

MakeCache = Callable[[CacheShape, range, torch.dtype, torch.device, range], KVCache]
"""(sizes, layers, dtype, device, steps) -> the cache of these layers and steps."""


def cache_maker(placement: Placement, pinning: Pinning = BY_DRIVER, in_turn: bool = False) -> MakeCache:
    """Caches where the memory plan wants them; those in RAM pinned as `pinning` does. `in_turn`: a block goes through
    all steps before the next one begins."""
    if placement.resident:
        return ResidentCache
    return partial(StagedCache, placement=placement, pinning=pinning, in_turn=in_turn)


@dataclass(frozen=True)
class PlacedModel:
    """A model, or a share of its layers, and the device that its weights are on."""

    model: CausalWanS2V
    device: torch.device


class ModelPart(Protocol):
    """Layers and steps, counted as in the whole model and schedule."""

    @property
    def layers(self) -> range: ...

    @property
    def steps(self) -> range: ...


@dataclass(frozen=True)
class Embedded:
    """What is made once a video before the layers: the text [1, text_len, dim], the modulations of all steps and of
    t = 0."""

    text: Tensor
    times: tuple[TimeModulation, ...]

    def tensors(self) -> dict[str, Tensor]:
        """For another stage."""
        layers, heads = (torch.cat(parts) for parts in zip(*((t.layers, t.head) for t in self.times), strict=True))
        return {"text": self.text, "layers": layers, "heads": heads}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Embedded":
        pairs = zip(tensors["layers"].split(1), tensors["heads"].split(1), strict=True)
        return cls(tensors["text"], tuple(TimeModulation(layers, head) for layers, head in pairs))


@dataclass(frozen=True)
class InForce:
    """What the blocks from one on attend to besides each other: the sink, and the prompt that it was made with."""

    sink: Sink
    text: TextContext


Step = tuple[int, int]
"""(block, step): an evaluation."""


class Evaluator:
    """The model's part, and what a video has there: caches, sinks, the blocks under way.

    `embed_conditions` comes first where the embeddings are, then `condition` and `begin`. An evaluation needs its
    block's sink (`fill_sink`) and its voice (`hear`), which stay until `leave`. Tensors are on the device; `dtype` is
    that of hidden states and caches.
    """

    def __init__(
        self,
        place: PlacedModel,
        request: SamplingRequest,
        dtype: torch.dtype,
        make_cache: MakeCache = ResidentCache,
        part: ModelPart | None = None,
    ) -> None:
        self.model, self.device, self.dtype = place.model, place.device, dtype
        self.request, self.plan = request, request.plan
        self.flow = flow_matching_schedule(self.plan.steps, self.plan.shift)
        self.layers = self.model.layers if part is None else part.layers
        self.steps = range(self.plan.steps) if part is None else part.steps
        self._make_cache = make_cache
        self.first_frames: dict[int, Tensor] = dict(request.start.first_frames)
        self._sources: set[int] = set()
        # By the first block that uses them: while a new sink comes into force, two are in use.
        self._in_force: dict[int, InForce] = {}
        self._first = first_evaluated(cache_shape(self.model, self.plan), request.start)
        self._contexts: dict[int, BlockContext] = {}
        self._poses: dict[int, Tensor] = {}
        self._motion: Tensor | None = None
        self._tables = self.model.rope_tables(self.plan.grid, self.device)

    @cached_property
    def cache(self) -> KVCache:
        """Made when it is needed: what the conditions take while they are embedded is free by then."""
        return self._make_cache(cache_shape(self.model, self.plan), self.layers, self.dtype, self.device, self.steps)

    def begin(self) -> int:
        """Fill the rings from the request's start, or begin a warm-up; returns the first block to evaluate.

        Raises InputError when the start does not hold what that needs.
        """
        start = self.request.start
        first = self._first
        if start.rings is None:
            self.cache.start_at(first)
        else:
            for step in self.steps:
                self.cache.load_ring(step, first - 1, start.rings)
        self._sources = self.plan.sink_frames(first)
        missing = sorted(s for s in self._sources if s < first and s not in self.first_frames)
        if missing:
            raise InputError(f"to begin at block {first}, the first latent frame of block {missing[0]} is needed")
        return first

    def embed_conditions(self) -> Embedded:
        """Text of the first block and time, where the embeddings are; the motion history is kept for the sinks."""
        self._motion = self._embed_motion()
        text = self._embed_text(self.plan.script.text_since(self._first))
        return Embedded(text, self.model.embed_times((*self.flow.timesteps, 0.0), self.device))

    def embed_new_text(self, block: int) -> Tensor | None:
        """The prompt [1, text_len, dim] that begins with a block; None when the one before goes on, or the run begins
        with this block, whose prompt `condition` has."""
        new = block != self._first and self.plan.script.text_since(block) == block
        return self._embed_text(block) if new else None

    def _embed_text(self, since: int) -> Tensor:
        return self.model.embed_text(self.request.conditions.text_since(since), self.dtype, self.device)

    def condition(self, embedded: Embedded) -> None:
        """Text and time for these layers."""
        keys_values = self.model.text_context(embedded.text, self.layers)
        self.video = VideoContext(keys_values, embedded.times[:-1], embedded.times[-1], self.flow.timesteps)

    def embed_sink(self, reference: Tensor) -> Tensor:
        """Sink tokens [1, N, dim] of a reference latent [16, 1, h, w] and the motion history."""
        motion = self._embed_motion() if self._motion is None else self._motion
        return torch.cat([self.model.embed_reference(self._moved(reference)[None]), motion], dim=1)

    def _embed_motion(self) -> Tensor:
        return self.model.embed_motion(self._moved(self.request.conditions.motion)[None])

    def fill_sink(self, block: int, tokens: Tensor, text: Tensor | None = None) -> Tensor:
        """Prefill the sink of `block` and later blocks; returns the tokens after these layers.

        `text` [1, text_len, dim]: the prompt from this block on, where another one begins.
        """
        if text is not None:
            self.video = replace(self.video, text=self.model.text_context(text, self.layers))
        sink = Sink()
        self._in_force[block] = InForce(sink, self.video.text)
        return self.model.run_sink_layers(tokens, self.video, self.plan.grid, self.cache, sink)

    def sink_of(self, block: int) -> Sink:
        """The one in force for a block."""
        return self._in_force_for(block).sink

    def reference(self, source: SinkSource) -> Tensor | None:
        """What a sink shows: the picture, or a block's first latent frame; None when that is not known here."""
        if source.frame_of is None:
            return self.request.conditions.picture_since(source.picture)
        return self.first_frames.get(source.frame_of)

    def noise(self, block: int) -> Tensor:
        """float32 [16, 3, h, w]."""
        return self.plan.block_noise(block).to(self.device)

    def embed_voice(self, block: int) -> AudioTokens:
        features = self.request.conditions.audio.frames(block * FRAMES_PER_BLOCK, FRAMES_PER_BLOCK)
        return self.model.embed_audio(features, self.dtype, self.device)

    def hears(self, block: int) -> bool:
        return block in self._contexts

    def hear(self, block: int, voice: AudioTokens) -> None:
        """Positions and voice of a block."""
        masks = self.request.conditions.actor_masks
        masks = None if masks is None else self._moved(masks[:, :LATENT_FRAMES_PER_BLOCK])
        place = BlockPlace(block, LATENT_FRAMES_PER_BLOCK, self.plan.grid)
        motion = self.plan.script.motion_at(block)
        voice = voice if motion == 1.0 else replace(voice, strength=motion)
        self._contexts[block] = self.model.block_context(place, voice, self.layers, masks, self._tables)

    def embed(self, latents: Sequence[Tensor], blocks: Sequence[int]) -> Tensor:
        """Noisy latents of blocks, float32 [16, 3, h, w] each, with their poses -> hidden states [B, tokens, dim]."""
        driven = self.request.conditions.pose is not None
        poses = torch.stack([self._pose(block) for block in blocks]) if driven else None
        return self.model.embed(torch.stack(list(latents)).to(self.dtype), poses)

    def _pose(self, block: int) -> Tensor:
        """A block's, which is the same at all steps."""
        pose = self.request.conditions.pose
        if block not in self._poses and pose is not None:
            self._poses[block] = self._moved(pose.latents(block))
        return self._poses[block]

    def rows(self, steps: Sequence[Step]) -> list[Row]:
        """Evaluations that go through the layers together, each at another step."""
        return [self._row(block, step) for block, step in steps]

    def _row(self, block: int, step: int) -> Row:
        held = self._in_force_for(block)
        return Row(self._contexts[block], step, held.sink, self.plan.distance(block, step), held.text)

    def run_layers(self, hidden: Tensor, rows: Sequence[Row]) -> Tensor:
        """hidden [rows, tokens, dim] -> the same after these layers; the blocks' keys and values are kept."""
        return self.model.run_layers(hidden, self.video, rows, self.cache)

    def velocities(self, hidden: Tensor, rows: Sequence[Row]) -> Tensor:
        """hidden after the last layer -> float32 [rows, 16, 3, h, w]."""
        return self.model.velocity(hidden, self.video, rows)

    def advance(self, latents: Tensor, velocity: Tensor, step: int) -> Tensor:
        """Euler step."""
        return self.flow.advance(latents, velocity, step)

    def finish(self, block: int, latents: Tensor) -> Tensor | None:
        """A block after its last step: its first latent frame, kept, if later sinks are made from it."""
        if block not in self._sources:
            return None
        self.first_frames[block] = latents[:, :1].clone()
        return self.first_frames[block]

    def leave(self, block: int) -> None:
        """The block has gone through all steps here: forget it, and the sinks that only older blocks used."""
        del self._contexts[block]
        self._poses.pop(block, None)
        in_force = self._first_in_force(block)
        for older in [first for first in self._in_force if first < in_force]:
            del self._in_force[older]

    def rings_after(self, block: int) -> dict[str, Tensor]:
        """The state after a block, of these layers and steps; no later block may be past it."""
        return {name: t for step in self.steps for name, t in self.cache.ring(step, block).items()}

    def _in_force_for(self, block: int) -> InForce:
        return self._in_force[self._first_in_force(block)]

    def _first_in_force(self, block: int) -> int:
        return max(first for first in self._in_force if first <= block)

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(device=self.device, dtype=self.dtype)


def cache_shape(model: CausalWanS2V, plan: ClipPlan) -> CacheShape:
    return model.cache_shape(plan.grid, plan.steps, plan.window_blocks, LATENT_FRAMES_PER_BLOCK)


def first_evaluated(shape: CacheShape, start: RunStart) -> int:
    """The first block of a run that is evaluated: without rings, that of a warm-up."""
    return start.first_block if start.rings is not None else shape.warm_up_start(start.first_block)
