"""Denoise the blocks of a video on one device.

Block b at step s needs only block b at step s - 1 and the caches that the blocks before b wrote at step s. So several
blocks can be under way at once, each one step behind the one before it; all of them go through the model as one batch.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from .evaluator import Evaluator
from .plan import SinkSource
from .run import Evaluation, LatentBlock, SamplingRequest


@dataclass
class BlockInFlight:
    """A block under way: what it has become before step `step`, float32 [16, 3, h, w] on the device."""

    index: int
    latents: Tensor
    step: int = 0
    rings: dict[str, Tensor] | None = None


class BlockRun(Iterator[LatentBlock]):
    """Blocks of a request in order, made when they are asked for, with at most `at_once` of them under way.

    `make_evaluator` is called for the first block. Inside the context of `told` everything is computed; it may raise
    other errors for those it sees.
    """

    def __init__(
        self,
        make_evaluator: Callable[[], Evaluator],
        request: SamplingRequest,
        at_once: int = 1,
        told: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._make_evaluator, self._request, self._plan = make_evaluator, request, request.plan
        self._at_once, self._told = at_once, told
        self._evaluator: Evaluator | None = None
        self._flying: deque[BlockInFlight] = deque()
        self._sink_source: SinkSource | None = None
        self._next = self._last = 0

    def __next__(self) -> LatentBlock:
        with self._told(), torch.inference_mode():
            evaluator = self._prepared()
            while True:
                self._begin_next(evaluator)
                if not self._flying:
                    self.close()
                    raise StopIteration
                rows = evaluator.rows([(block.index, block.step) for block in self._flying])
                blocks = [block.index for block in self._flying]
                hidden = evaluator.embed([block.latents for block in self._flying], blocks)
                self._advance(evaluator, evaluator.velocities(evaluator.run_layers(hidden, rows), rows))
                block = self._finished(evaluator)
                if block is not None and block.index >= self._request.start.first_block:
                    return LatentBlock(block.index, self._plan.clip_of(block.index), block.latents.cpu(), block.rings)

    def rings(self) -> dict[str, Tensor] | None:
        """State after the last finished block; None when a later one is past it or nothing was finished."""
        if self._evaluator is None or len(self._flying) > 1 or self._last < self._request.start.first_block:
            return None
        return self._evaluator.rings_after(self._last)

    def close(self) -> None:
        """Let go of the model and the caches."""
        self._evaluator = None
        self._flying.clear()

    def _prepared(self) -> Evaluator:
        if self._evaluator is None:
            evaluator = self._make_evaluator()
            evaluator.condition(evaluator.embed_conditions())
            self._next = evaluator.begin()
            self._last = self._next - 1
            self._evaluator = evaluator
        return self._evaluator

    def _begin_next(self, evaluator: Evaluator) -> None:
        """The next block, if there is one, it has room, and the block that its sink is made from is finished."""
        block = self._next
        if block >= self._plan.num_blocks or len(self._flying) >= self._at_once:
            return
        source = self._plan.sink_source(block)
        reference = evaluator.reference(source)
        if reference is None:
            return
        if source != self._sink_source:
            text = evaluator.embed_new_text(block)
            evaluator.fill_sink(block, evaluator.embed_sink(reference), text)
            self._sink_source = source
        evaluator.hear(block, evaluator.embed_voice(block))
        self._flying.append(BlockInFlight(block, evaluator.noise(block)))
        self._next += 1

    def _advance(self, evaluator: Evaluator, velocities: Tensor) -> None:
        request = self._request
        for block, velocity in zip(self._flying, velocities, strict=True):
            if request.after_step is not None:
                sigma = evaluator.flow.sigmas[block.step]
                request.after_step(Evaluation(block.index, block.step, sigma, block.latents, velocity))
        for block, velocity in zip(self._flying, velocities, strict=True):
            block.latents = evaluator.advance(block.latents, velocity, block.step)
            block.step += 1
            if request.keeps_rings(block.index):
                # A step's ring is copied when the block has just gone through it: later blocks overwrite it.
                block.rings = {**(block.rings or {}), **evaluator.cache.ring(block.step - 1, block.index)}

    def _finished(self, evaluator: Evaluator) -> BlockInFlight | None:
        """The oldest block, if it has gone through all steps."""
        if self._flying[0].step < self._plan.steps:
            return None
        block = self._flying.popleft()
        self._last = block.index
        evaluator.finish(block.index, block.latents)
        evaluator.leave(block.index)
        return block
