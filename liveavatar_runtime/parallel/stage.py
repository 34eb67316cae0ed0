"""A stage of a pipeline at work: its layers and steps, its caches, its order of operations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..dit.audio import AudioTokens
from ..dit.embeddings import TimeModulation
from ..dit.kv_cache import CacheShape, KVCache, ResidentCache, Sink
from ..dit.model import BlockContext, CausalWanS2V, Row, VideoContext
from ..errors import InputError
from ..planning.duration import FRAMES_PER_BLOCK, LATENT_FRAMES_PER_BLOCK
from ..planning.memory import ON_DEVICE, Placement
from ..planning.out_of_memory import sampling_told
from ..sampling.block_loop import Evaluation, KeepRings, RunStart
from ..sampling.conditions import Conditions
from ..sampling.plan import ClipPlan
from ..sampling.schedule import flow_matching_schedule
from .schedule import Operation, PipelineSchedule, Span
from .transport import MessageKey, Transport

MakeStageCache = Callable[[CacheShape, range, torch.dtype, torch.device, range], KVCache]
"""(sizes, layers, dtype, device, steps) -> the cache of a stage."""


@dataclass(frozen=True)
class RingPart:
    """What one stage holds of the state after a block: some layers' rings of one step, on the CPU."""

    block: int
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class FinishedBlock:
    """Latents float32 [16, 3, h, w] of a block after its last step, on the device of the last stage."""

    index: int
    latents: Tensor


Result = Evaluation | RingPart | FinishedBlock


class Output(Protocol):
    """Where a stage's results go: to the thread that asked for the blocks."""

    def put(self, result: Result) -> None:
        """Hand over a result; waits while too many are not taken yet; raises StageStopped after a stop."""
        ...


@dataclass(frozen=True, kw_only=True)
class StageTask:
    """What all stages of a run are told. `want_evaluations`: whether somebody looks at each step's result."""

    schedule: PipelineSchedule
    plan: ClipPlan
    conditions: Conditions
    dtype: torch.dtype
    start: RunStart = RunStart()
    keep_rings: KeepRings | None = None
    want_evaluations: bool = False
    make_cache: MakeStageCache = ResidentCache
    placement: Placement = ON_DEVICE

    def span(self, shape: CacheShape) -> Span:
        """The blocks that are sampled, those of a warm-up included."""
        first = self.start.first_block
        return Span.of(self.plan, first if self.start.rings is not None else shape.warm_up_start(first))


class Stage:
    """Runs one stage's operations in order, until the plan's end. Single-threaded; tensors stay on its device."""

    def __init__(
        self,
        number: int,
        model: CausalWanS2V,
        device: torch.device,
        task: StageTask,
        transport: Transport,
        output: Output,
    ) -> None:
        self.number, self.model, self.device, self.task = number, model, device, task
        self.transport, self.output = transport, output
        self.plan, self.schedule = task.plan, task.schedule
        self.part = task.schedule.parts[number]
        self.flow = flow_matching_schedule(task.plan.steps, task.plan.shift)
        shape = model.cache_shape(self.plan.grid, self.plan.steps, self.plan.window_blocks, LATENT_FRAMES_PER_BLOCK)
        self.span = task.span(shape)
        self.cache = task.make_cache(shape, self.part.layers, task.dtype, device, self.part.steps)
        # By the first block that uses it: while a new sink comes into force, two are in use.
        self.sinks: dict[int, Sink] = {}
        self.contexts: dict[int, BlockContext] = {}
        self.latents: dict[int, Tensor] = {}
        self.sources = self.plan.sink_sources(self.span.first)
        self.first_frames = dict(task.start.first_frames)

    @property
    def embeds(self) -> bool:
        """Whether evaluations enter the model here."""
        return self.schedule.path(self.part.steps[0])[0] == self.number

    @property
    def ends(self) -> bool:
        """Whether evaluations leave the model here."""
        return self.schedule.path(self.part.steps[0])[-1] == self.number

    def run(self) -> None:
        self._load_rings()
        self.video = self._video_context()
        for operation in self.schedule.operations(self.number, self.span):
            self.transport.check()
            if operation.kind == "sink":
                self._make_sink(operation.block)
            else:
                self._evaluate(operation)

    def _load_rings(self) -> None:
        rings, first = self.task.start.rings, self.span.first
        if rings is None:
            self.cache.start_at(first)
            return
        for step in self.part.steps:
            self.cache.load_ring(step, first - 1, rings)

    def _video_context(self) -> VideoContext:
        """Text and time, computed where the embeddings are and handed down the layers."""
        key = MessageKey("start")
        if self.embeds:
            text = self.model.embed_text(self.task.conditions.text, self.task.dtype, self.device)
            times = self.model.embed_times((*self.flow.timesteps, 0.0), self.device)
        else:
            got = self.transport.receive(self.number - 1, key)
            text, layers, heads = got["text"], got["layers"], got["heads"]
            times = tuple(TimeModulation(a, b) for a, b in zip(layers.split(1), heads.split(1), strict=True))
        if not self.ends:
            layers, heads = torch.cat([time.layers for time in times]), torch.cat([time.head for time in times])
            self.transport.send(self.number + 1, key, {"text": text, "layers": layers, "heads": heads})
        keys_values = self.model.text_context(text, self.part.layers)
        return VideoContext(keys_values, times[:-1], times[-1], self.flow.timesteps)

    def _make_sink(self, block: int) -> None:
        key = MessageKey("sink", block)
        if self.embeds:
            reference, motion = self._reference(self.plan.sink_source(block)), self.task.conditions.motion
            tokens = self.model.embed_sink(self._moved(reference)[None], self._moved(motion)[None])
        else:
            tokens = self.transport.receive(self.number - 1, key)["tokens"]
        sink = self.sinks[block] = Sink()
        tokens = self.model.run_sink_layers(tokens, self.video, self.plan.grid, self.cache, sink)
        if not self.ends:
            self.transport.send(self.number + 1, key, {"tokens": tokens})

    def _reference(self, source: int | None) -> Tensor:
        if source is None:
            return self.task.conditions.reference
        if source not in self.first_frames:
            if source < self.span.first:
                # No stage makes it: waiting for it would never end.
                raise InputError(
                    f"to begin at block {self.span.first}, the first latent frame of block {source} is needed"
                )
            last = self.schedule.path(self.plan.steps - 1)[-1]
            got = self.transport.receive(last, MessageKey("first_frame", source))
            self.first_frames[source] = got["frame"]
        return self.first_frames[source]

    def _evaluate(self, operation: Operation) -> None:
        block, step = operation.block, operation.step
        latents: Tensor | None = None
        if self.embeds:
            latents = self._noisy(block, step)
            hidden = self.model.embed(latents[None].to(self.task.dtype))
            tokens = self._voice(block) if block not in self.contexts else None
        else:
            got = self.transport.receive(self.number - 1, MessageKey("hidden", block, step))
            hidden = got["hidden"]
            tokens = AudioTokens(got["voice_global"], got["voice_local"]) if "voice_global" in got else None
        if tokens is not None:
            self.contexts[block] = self._context(block, tokens)
        row = Row(self.contexts[block], step, self.sinks[self._sink_of(block)], self.plan.distance(block, step))
        hidden = self.model.run_layers(hidden, self.video, [row], self.cache)
        if self.task.keep_rings is not None and self.task.keep_rings(block):
            self.output.put(RingPart(block, self.cache.ring(step, block)))
        if self.ends:
            velocity = self.model.velocity(hidden, self.video, [row])[0]
            self._advance(block, step, self._noisy(block, step) if latents is None else latents, velocity)
        else:
            voice = {} if tokens is None else {"voice_global": tokens.glob, "voice_local": tokens.local}
            self.transport.send(self.number + 1, MessageKey("hidden", block, step), {"hidden": hidden, **voice})
        if step == self.part.steps[-1]:
            self._leave(block)

    def _noisy(self, block: int, step: int) -> Tensor:
        """What the block has become before a step, float32 [16, 3, h, w]."""
        if step == 0:
            return self.plan.block_noise(block).to(self.device)
        if block in self.latents:
            return self.latents.pop(block)
        source = self.schedule.path(step - 1)[-1]
        return self.transport.receive(source, MessageKey("latents", block, step))["latents"]

    def _voice(self, block: int) -> AudioTokens:
        features = self.task.conditions.audio.frames(block * FRAMES_PER_BLOCK, FRAMES_PER_BLOCK)
        return self.model.embed_audio(features, self.task.dtype, self.device)

    def _context(self, block: int, tokens: AudioTokens) -> BlockContext:
        masks = self.task.conditions.actor_masks
        masks = None if masks is None else self._moved(masks[:, :LATENT_FRAMES_PER_BLOCK])
        return self.model.voiced_context(
            block, LATENT_FRAMES_PER_BLOCK, self.plan.grid, tokens, self.part.layers, masks
        )

    def _advance(self, block: int, step: int, latents: Tensor, velocity: Tensor) -> None:
        """Euler step; hand the result to whoever needs it."""
        if self.task.want_evaluations:
            self.output.put(Evaluation(block, step, self.flow.sigmas[step], latents, velocity))
        latents = self.flow.advance(latents, velocity, step)
        if step + 1 == self.plan.steps:
            self._finish(block, latents)
            return
        path = self.schedule.path(step + 1)
        if self.number in path:
            self.latents[block] = latents
        if path[0] != self.number:
            self.transport.send(path[0], MessageKey("latents", block, step + 1), {"latents": latents})

    def _finish(self, block: int, latents: Tensor) -> None:
        if block in self.sources:
            self.first_frames[block] = latents[:, :1].clone()
            for stage in {self.schedule.path(step)[0] for step in range(self.plan.steps)} - {self.number}:
                self.transport.send(stage, MessageKey("first_frame", block), {"frame": self.first_frames[block]})
        self.output.put(FinishedBlock(block, latents))

    def _leave(self, block: int) -> None:
        """The block has gone through all steps of this stage: forget it, and the sinks that only older blocks used."""
        del self.contexts[block]
        for older in [first for first in self.sinks if first < self._sink_of(block)]:
            del self.sinks[older]

    def _sink_of(self, block: int) -> int:
        return max(first for first in self.sinks if first <= block)

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(device=self.device, dtype=self.task.dtype)


def run_told(
    number: int, model: CausalWanS2V, device: torch.device, task: StageTask, transport: Transport, output: Output
) -> None:
    """Runs a stage. Raises DeviceFullError, with what frees memory of its share, when its device is full."""
    part, config = task.schedule.parts[number], model.config
    share = replace(config, num_layers=len(part.layers), audio_inject_layers=())
    plan = replace(task.plan, steps=len(part.steps))
    with sampling_told(share, plan, task.dtype, task.placement, device):
        Stage(number, model, device, task, transport, output).run()
