"""A stage of a pipeline at work: its layers and steps, in the order of its schedule."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..dit.audio import AudioTokens
from ..dit.kv_cache import CacheShape, ResidentCache
from ..dit.placement import ON_DEVICE, Placement
from ..sampling.evaluator import Embedded, Evaluator, MakeCache, PlacedModel, first_evaluated
from ..sampling.plan import SinkSource
from ..sampling.run import Evaluation, SamplingRequest
from .schedule import Operation, PipelineSchedule, Span
from .transport import MessageKey, Transport


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


@dataclass(frozen=True)
class StageTask:
    """What all stages of a run are told. `dtype`: of hidden states and caches; `placement`: where `make_cache` puts
    them; `want_evaluations`: whether somebody looks at each step's result."""

    request: SamplingRequest
    schedule: PipelineSchedule
    dtype: torch.dtype
    make_cache: MakeCache = ResidentCache
    placement: Placement = ON_DEVICE
    want_evaluations: bool = False

    def span(self, shape: CacheShape) -> Span:
        """The blocks that are sampled, those of a warm-up included."""
        return Span.of(self.request.plan, first_evaluated(shape, self.request.start))


class Stage:
    """Runs one stage's operations in order, until the plan's end. Single-threaded; tensors stay on its device."""

    def __init__(self, number: int, place: PlacedModel, task: StageTask, transport: Transport, output: Output) -> None:
        self.number, self.task = number, task
        self.transport, self.output = transport, output
        self.plan, self.schedule = task.request.plan, task.schedule
        self.part = task.schedule.parts[number]
        self.evaluator = Evaluator(place, task.request, task.dtype, task.make_cache, self.part)
        self.latents: dict[int, Tensor] = {}

    @property
    def embeds(self) -> bool:
        """Whether evaluations enter the model here."""
        return self.schedule.path(self.part.steps[0])[0] == self.number

    @property
    def ends(self) -> bool:
        """Whether evaluations leave the model here."""
        return self.schedule.path(self.part.steps[0])[-1] == self.number

    def run(self) -> None:
        self._condition()
        self.evaluator.begin()
        for operation in self.schedule.operations(self.number, self.task.span(self.evaluator.cache.shape)):
            self.transport.check()
            if operation.kind == "sink":
                self._fill_sink(operation.block)
            else:
                self._evaluate(operation)

    def _condition(self) -> None:
        """Text and time, computed where the embeddings are and handed down the layers."""
        key = MessageKey("start")
        if self.embeds:
            embedded = self.evaluator.embed_conditions()
        else:
            embedded = Embedded.from_tensors(self.transport.receive(self.number - 1, key))
        if not self.ends:
            self.transport.deliver(self.number + 1, key, embedded.tensors())
        self.evaluator.condition(embedded)

    def _fill_sink(self, block: int) -> None:
        key = MessageKey("sink", block)
        if self.embeds:
            tokens = self.evaluator.embed_sink(self._reference(self.plan.sink_source(block)))
            text = self.evaluator.embed_new_text(block)
        else:
            got = self.transport.receive(self.number - 1, key)
            tokens, text = got["tokens"], got.get("text")
        tokens = self.evaluator.fill_sink(block, tokens, text)
        if not self.ends:
            new_text = {} if text is None else {"text": text}
            self.transport.deliver(self.number + 1, key, {"tokens": tokens, **new_text})

    def _reference(self, source: SinkSource) -> Tensor:
        known = self.evaluator.reference(source)
        if known is not None:
            return known
        assert source.frame_of is not None, "the picture is always known"
        last = self.schedule.path(self.plan.steps - 1)[-1]
        frame = self.transport.receive(last, MessageKey("first_frame", source.frame_of))["frame"]
        self.evaluator.first_frames[source.frame_of] = frame
        return frame

    def _evaluate(self, operation: Operation) -> None:
        block, step = operation.block, operation.step
        evaluator, latents = self.evaluator, None
        if self.embeds:
            latents = self._noisy(block, step)
            hidden = evaluator.embed([latents], [block])
            voice = None if evaluator.hears(block) else evaluator.embed_voice(block)
        else:
            got = self.transport.receive(self.number - 1, MessageKey("hidden", block, step))
            hidden = got["hidden"]
            voice = AudioTokens(got["voice_global"], got["voice_local"]) if "voice_global" in got else None
        if voice is not None:
            evaluator.hear(block, voice)
        rows = evaluator.rows([(block, step)])
        hidden = evaluator.run_layers(hidden, rows)
        if self.task.request.keeps_rings(block):
            self.output.put(RingPart(block, evaluator.cache.ring(step, block)))
        if self.ends:
            velocity = evaluator.velocities(hidden, rows)[0]
            self._advance(block, step, self._noisy(block, step) if latents is None else latents, velocity)
        else:
            heard = {} if voice is None else {"voice_global": voice.glob, "voice_local": voice.local}
            self.transport.deliver(self.number + 1, MessageKey("hidden", block, step), {"hidden": hidden, **heard})
        if step == self.part.steps[-1]:
            evaluator.leave(block)

    def _noisy(self, block: int, step: int) -> Tensor:
        """What the block has become before a step, float32 [16, 3, h, w]."""
        if step == 0:
            return self.evaluator.noise(block)
        if block in self.latents:
            return self.latents.pop(block)
        source = self.schedule.path(step - 1)[-1]
        return self.transport.receive(source, MessageKey("latents", block, step))["latents"]

    def _advance(self, block: int, step: int, latents: Tensor, velocity: Tensor) -> None:
        """Euler step; hand the result to whoever needs it."""
        if self.task.want_evaluations:
            self.output.put(Evaluation(block, step, self.evaluator.flow.sigmas[step], latents, velocity))
        latents = self.evaluator.advance(latents, velocity, step)
        if step + 1 == self.plan.steps:
            self._finish(block, latents)
            return
        path = self.schedule.path(step + 1)
        if self.number in path:
            self.latents[block] = latents
        if path[0] != self.number:
            self.transport.deliver(path[0], MessageKey("latents", block, step + 1), {"latents": latents})

    def _finish(self, block: int, latents: Tensor) -> None:
        frame = self.evaluator.finish(block, latents)
        if frame is not None:
            for stage in {self.schedule.path(step)[0] for step in range(self.plan.steps)} - {self.number}:
                self.transport.deliver(stage, MessageKey("first_frame", block), {"frame": frame})
        self.output.put(FinishedBlock(block, latents))
