"""What all ranks do together: the runs that ComfyUI asks for, one after the other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from liveavatar_runtime.config import AvatarConfig
from liveavatar_runtime.errors import InputError, handled
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.sampling.evaluator import PlacedModel
from liveavatar_runtime.sampling.run import Evaluation, Executor, SamplingRequest, SamplingRun

from ..messages import Cancelled, End, Go, Release, Ring, Rings, RunRefused, WantRings
from ..run_request import RunRequest
from .block_input import BlockInput, BlockInputs
from .cache_bytes import cache_bytes, measured
from .comfyui_connection import ComfyUIConnection, RunCancelled, refuse_misfits
from .pipeline_worker import PipelinePart, PipelineWorker, send_block, step_message
from .ranks import Rank


@dataclass(frozen=True)
class Loaded:
    """What runs jobs on this rank, its model, and the bytes of weights that it holds for it."""

    executor: Executor | PipelinePart
    config: AvatarConfig
    dtype: torch.dtype
    bytes: int


def serve(rank: Rank, comfyui: ComfyUIConnection | None, loaded: Loaded) -> None:
    """Until the process is ended."""
    executor = loaded.executor
    pipeline = PipelineWorker(rank, comfyui, executor) if isinstance(executor, PipelinePart) else None
    run: SamplingRun | None = None
    last = -1
    while True:
        request = rank.share(next_request(comfyui, loaded.config) if comfyui else None)
        if isinstance(request, (RunRequest, Release)) and run is not None:
            run.close()
            run = None
        if isinstance(request, RunRequest):
            session = RankRun(rank, comfyui, request)
            with rank.stall_detector.working():
                run, last = session.run(executor, pipeline)
        elif isinstance(request, WantRings) and comfyui is not None:
            # ComfyUI may have interrupted while the next block was already on its way to it.
            rings = run.rings() if run is not None and request.after == last else None
            send_rings(comfyui, request.number, rings)


def next_request(comfyui: ComfyUIConnection, config: AvatarConfig) -> Any:
    """The next one that ranks can work on; a run for another model is refused."""
    while True:
        request = comfyui.next_request()
        if not isinstance(request, RunRequest):
            return request
        with handled(InputError, partial(_refuse, comfyui, request)):
            refuse_misfits(partial(request.check_for, config))
            return request


def _refuse(comfyui: ComfyUIConnection, request: RunRequest, error: InputError) -> None:
    comfyui.send(outcome(request.number, error))


def outcome(number: int, error: RunCancelled | InputError) -> Cancelled | RunRefused:
    """What a run that ends early is told to have come to."""
    if isinstance(error, RunCancelled):
        return Cancelled(number=number)
    return RunRefused(number=number, reason=str(error))


def send_rings(comfyui: ComfyUIConnection, number: int, rings: Mapping[str, Tensor] | None) -> None:
    """Announce their number, then one message for each tensor."""
    comfyui.send(Rings(number=number, count=None if rings is None else len(rings)))
    for name, tensor in (rings or {}).items():
        comfyui.send(Ring(number=number, name=name, tensor=tensor))


@dataclass(frozen=True)
class RankRun:
    """One run, on one rank; `comfyui` on rank 0, which is asked for voice and poses."""

    rank: Rank
    comfyui: ComfyUIConnection | None
    request: RunRequest

    def run(self, executor: Executor | PipelinePart, pipeline: PipelineWorker | None) -> tuple[SamplingRun | None, int]:
        """Sends all blocks that ComfyUI wants; returns the run if it still has its rings, and its last block."""
        run: SamplingRun | None = None
        last, request = -1, self.request
        with handled((RunCancelled, InputError), lambda error: self._send(outcome(request.number, error))):
            start = request.start(self._receive_rings(request.rings))
            if isinstance(executor, PipelinePart):
                assert pipeline is not None
                pipeline.run(request, start)
                return None, last
            if isinstance(executor, LocalExecutor):
                executor = LocalExecutor.placed(
                    PlacedModel(executor.model, executor.device), executor.dtype, request.placement
                )
                executor = replace(executor, make_cache=measured(self.rank, executor.make_cache))
            kept = frozenset(request.kept_rings)
            inputs = BlockInputs(self._input_of, request.driven)
            conditions = request.conditions(inputs, inputs)
            run = executor.run(SamplingRequest(conditions, request.plan, start, self._after_step, kept.__contains__))
            for index in range(request.first_block, request.plan.num_blocks):
                self._share(partial(self._wait_until_wanted, index))
                block = next(run)
                last = block.index
                if self.comfyui is not None:
                    caches = cache_bytes(self.rank, self.rank.size) if index == request.first_block else None
                    send_block(self.comfyui, request, block, caches)
                self.rank.stall_detector.settle()
            self._send(End(number=request.number))
        return run, last

    def _input_of(self, first: int, count: int) -> BlockInput:
        """From ComfyUI; all ranks ask for the same ones in the same order."""
        voice = self._share(lambda comfyui: comfyui.voice(self.request.number, first, count))
        return BlockInput(voice.audio, voice.pose)

    def _receive_rings(self, count: int | None) -> dict[str, Tensor] | None:
        if count is None:
            return None
        rings = [self._share(lambda comfyui: comfyui.next_ring(self.request.number)) for _ in range(count)]
        return {ring.name: ring.tensor for ring in rings}

    def _wait_until_wanted(self, block: int, comfyui: ComfyUIConnection) -> Go:
        comfyui.wait_until_wanted(self.request.number, block)
        return Go()

    def _share(self, ask: Callable[[ComfyUIConnection], Any]) -> Any:
        """What rank 0 gets from ComfyUI, on all ranks. Raises RunCancelled or InputError on all of them."""
        with self.rank.stall_detector.waiting():
            message = None if self.comfyui is None else self._asked(self.comfyui, ask)
            message = self.rank.share(message)
        if isinstance(message, Cancelled):
            raise RunCancelled
        if isinstance(message, RunRefused):
            raise InputError(message.reason)
        return message

    def _asked(self, comfyui: ComfyUIConnection, ask: Callable[[ComfyUIConnection], Any]) -> Any:
        try:
            return ask(comfyui)
        except (RunCancelled, InputError) as error:
            return outcome(self.request.number, error)

    def _after_step(self, evaluation: Evaluation) -> None:
        self.rank.stall_detector.mark()
        if self.comfyui is not None:
            self.comfyui.send(step_message(self.request.number, evaluation))
        if self.rank.agree(self.comfyui is not None and self.comfyui.is_cancelled(self.request.number)):
            raise RunCancelled

    def _send(self, message: End | Cancelled | RunRefused) -> None:
        if self.comfyui is not None:
            self.comfyui.send(message)
