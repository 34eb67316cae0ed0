"""One rank of a pipeline in worker processes: it runs one stage; rank 0 also passes on what ComfyUI and ranks want."""

import threading
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.duration import FRAMES_PER_BLOCK
from liveavatar_runtime.errors import InputError, handled
from liveavatar_runtime.executors.pipelines import run_told
from liveavatar_runtime.pipeline.schedule import PipelineSchedule
from liveavatar_runtime.pipeline.stage import Result, RingPart, StageTask
from liveavatar_runtime.pipeline.transport import StageStopped
from liveavatar_runtime.sampling.evaluator import PlacedModel, cache_maker
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import Evaluation, LatentBlock, RunStart, SamplingRequest

from ..messages import (
    Block,
    Cancelled,
    End,
    RankBlock,
    RankRings,
    RankStep,
    RankVoice,
    RankWantsVoice,
    Ring,
    RunRefused,
    RunRequest,
    Step,
    Stop,
    WantVoice,
)
from .block_input import BlockInput, BlockInputs
from .cache_bytes import cache_bytes, measured
from .comfyui_connection import ComfyUIConnection, RunCancelled
from .mailbox import DistributedTransport, Mailbox, file_message
from .rank_messenger import RankMessenger
from .ranks import Rank

BLOCKS_AHEAD = 1
"""How many more blocks than the stages hold may be begun before ComfyUI asks for them."""


@dataclass(frozen=True)
class PipelinePart:
    """What a rank runs: its part of the model, and the schedule of all ranks for a plan."""

    model: CausalWanS2V
    dtype: torch.dtype
    schedule: Callable[[ClipPlan], PipelineSchedule]


class PipelineWorker:
    """All ranks make theirs together, and run the same jobs in the same order. It is its stage's `Output`."""

    def __init__(self, rank: Rank, comfyui: ComfyUIConnection | None, part: PipelinePart) -> None:
        self._rank, self._comfyui, self._part = rank, comfyui, part
        self._mailbox = Mailbox()
        self._number = 0
        self._results: Results | None = None
        self._messenger = RankMessenger(rank, self._receive)

    def run(self, request: RunRequest, start: RunStart) -> None:
        """Until ComfyUI has all blocks, or wants no more; what came of it is told to ComfyUI."""
        mailbox, rank = self._mailbox, self._rank
        mailbox.begin(mailbox.run + 1)
        self._number = request.number
        transport = DistributedTransport(rank, self._messenger, mailbox, lambda: self._is_cancelled(request))
        why = None
        try:
            schedule = self._part.schedule(request.plan)
            self._results = None if self._comfyui is None else Results(rank, self._comfyui, request, schedule)
            if rank.number < len(schedule.parts):
                self._run_stage(request, start, schedule, transport)
            if self._results is not None:
                results = self._results
                with rank.stall_detector.waiting():
                    mailbox.wait(lambda: results.complete or None, transport.check)
        except StageStopped:
            why = mailbox.stopped
        except RunCancelled:
            why = ""
        except InputError as error:
            why = str(error)
            if not rank.leads:
                self._messenger.send(0, Stop(run=mailbox.run, why=why))
        if rank.leads and self._comfyui is not None:
            self._conclude(self._comfyui, request, why)

    def put(self, result: Result) -> None:
        """A result of this rank's stage goes to rank 0."""
        run = self._mailbox.run
        if isinstance(result, Evaluation):
            self._messenger.send(0, RankStep(run=run, step=step_message(self._number, result)))
        elif isinstance(result, RingPart):
            self._messenger.send(0, RankRings(run=run, block=result.block, tensors=dict(result.tensors)))
        else:
            self._messenger.send(0, RankBlock(run=run, block=result.index, latents=result.latents))

    def input_of(self, request: RunRequest, first: int, count: int, ahead: int) -> BlockInput:
        """Of the block with these video frames: on rank 0 from ComfyUI, once it may be begun; on others from rank 0."""
        with self._rank.stall_detector.waiting():
            if self._comfyui is not None:
                wanted = max(request.first_block, first // FRAMES_PER_BLOCK - ahead)
                self._comfyui.wait_until_wanted(request.number, wanted)
                voice = self._comfyui.voice(request.number, first, count)
                return BlockInput(voice.audio, voice.pose)
            want = WantVoice(number=request.number, first=first, count=count)
            self._messenger.send(0, RankWantsVoice(run=self._mailbox.run, want=want))
            got = self._mailbox.take(("voice", first), self._check_stopped)
            return BlockInput(got["audio"], got.get("pose"))

    def _run_stage(
        self, request: RunRequest, start: RunStart, schedule: PipelineSchedule, transport: DistributedTransport
    ) -> None:
        kept = frozenset(request.kept_rings)
        ahead = schedule.blocks_in_flight() + BLOCKS_AHEAD
        inputs = BlockInputs(lambda first, count: self.input_of(request, first, count, ahead), request.driven)
        task = StageTask(
            SamplingRequest(request.conditions(inputs, inputs), request.plan, start, keep_rings=kept.__contains__),
            schedule,
            self._part.dtype,
            measured(self._rank, cache_maker(request.placement)),
            request.placement,
            want_evaluations=True,
        )
        place = PlacedModel(self._part.model, self._rank.device)
        with torch.inference_mode():
            run_told(self._rank.number, place, task, transport, self)

    def _conclude(self, comfyui: ComfyUIConnection, request: RunRequest, why: str | None) -> None:
        if why is None:
            comfyui.send(End(number=request.number))
            return
        for number in range(1, self._rank.size):
            self._messenger.send(number, Stop(run=self._mailbox.run, why=why))
        refused = RunRefused(number=request.number, reason=why)
        comfyui.send(refused if why else Cancelled(number=request.number))

    def _is_cancelled(self, request: RunRequest) -> bool:
        return self._comfyui is not None and self._comfyui.is_cancelled(request.number)

    def _check_stopped(self) -> None:
        if self._mailbox.stopped is not None:
            raise StageStopped
        self._messenger.check()

    def _receive(self, source: int, message: Any) -> None:
        """A message of another rank, or a result of this one."""
        if isinstance(message, RankWantsVoice):
            self._answer(source, message)
        elif isinstance(message, (RankStep, RankRings, RankBlock)):
            if self._results is not None and message.run == self._mailbox.run:
                self._results.put(message)
                self._mailbox.wake()
        else:
            file_message(self._mailbox, source, message)

    def _answer(self, source: int, asked: RankWantsVoice) -> None:
        assert self._comfyui is not None
        want = asked.want
        # Rank 0's stage notices a cancelled run too, and stops all.
        with suppress(RunCancelled), handled(InputError, lambda error: self._mailbox.stop(asked.run, str(error))):
            voice = self._comfyui.voice(want.number, want.first, want.count)
            answer = RankVoice(run=asked.run, first=want.first, audio=voice.audio, pose=voice.pose)
            self._messenger.send(source, answer)


class Results:
    """On rank 0: puts together what the stages give, and sends it to ComfyUI, blocks in order."""

    def __init__(self, rank: Rank, comfyui: ComfyUIConnection, request: RunRequest, schedule: PipelineSchedule) -> None:
        self._rank, self._comfyui, self._request = rank, comfyui, request
        self._stages = len(schedule.parts)
        self._parts = sum(len(part.steps) for part in schedule.parts)
        self._kept = frozenset(request.kept_rings)
        self._lock = threading.Lock()
        self._rings: dict[int, list[dict[str, Tensor]]] = defaultdict(list)
        self._finished: dict[int, Tensor] = {}
        self._next = request.first_block

    @property
    def complete(self) -> bool:
        return self._next >= self._request.plan.num_blocks

    def put(self, message: RankStep | RankRings | RankBlock) -> None:
        with self._lock:
            if isinstance(message, RankStep):
                self._comfyui.send(message.step)
            elif isinstance(message, RankRings):
                self._rings[message.block].append(message.tensors)
            else:
                self._finished[message.block] = message.latents
            while self._next in self._finished and self._has_rings(self._next):
                self._send(self._next)
                self._next += 1

    def _has_rings(self, block: int) -> bool:
        return block not in self._kept or len(self._rings[block]) == self._parts

    def _send(self, block: int) -> None:
        parts = self._rings.pop(block, None)
        rings = None if parts is None else {name: tensor for part in parts for name, tensor in part.items()}
        caches = cache_bytes(self._rank, self._stages) if block == self._request.first_block else None
        finished = LatentBlock(block, self._request.plan.clip_of(block), self._finished.pop(block), rings)
        send_block(self._comfyui, self._request, finished, caches)


def send_block(comfyui: ComfyUIConnection, request: RunRequest, block: LatentBlock, caches: list[int] | None) -> None:
    """A finished block to ComfyUI, then one message for each tensor of its rings.

    `caches`: with a run's first block, the bytes of caches on each rank.
    """
    count = None if block.rings is None else len(block.rings)
    number = request.number
    comfyui.send(
        Block(number=number, index=block.index, clip=block.clip, latents=block.latents, rings=count, caches=caches)
    )
    for name, tensor in (block.rings or {}).items():
        comfyui.send(Ring(number=number, name=name, tensor=tensor))


def step_message(number: int, of: Evaluation) -> Step:
    return Step(number=number, block=of.block, step=of.step, sigma=of.sigma, latents=of.latents, velocity=of.velocity)
