"""The executor of runs that workers compute: on this machine for FSDP, or on others."""

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from liveavatar_runtime.dit.placement import ON_DEVICE, Placement
from liveavatar_runtime.errors import InputError, MachineError, replaced
from liveavatar_runtime.sampling.run import Evaluation, LatentBlock, SamplingRequest

from ..messages import Block, Cancel, More, Release, Ring, Rings, RunRefused, Step, WantRings
from ..run_request import RunRequest
from ..wire.endpoint import ConnectionLost
from .connection import Connection, Poll
from .groups import Workers

Kind = TypeVar("Kind", Block, Ring, Rings)
NUMBER_BITS = 48


def never() -> None:
    """No interruption."""


@dataclass(frozen=True, eq=False)
class RemoteExecutor:
    """`poll` is called while the workers compute and may raise to interrupt; `placement`: of each rank's caches."""

    workers: Workers
    poll: Poll = never
    placement: Placement = ON_DEVICE

    def run(self, request: SamplingRequest) -> "RemoteRun":
        plan, start = request.plan, request.start
        kept = filter(request.keeps_rings, range(start.first_block, plan.num_blocks))
        run = RunRequest.of(secrets.randbits(NUMBER_BITS), request.conditions, plan, start, kept).on(self.placement)
        return RemoteRun(self, run, request)


class RemoteRun(Iterator[LatentBlock]):
    """Blocks are computed when they are asked for; the workers are started by the first one."""

    def __init__(self, executor: RemoteExecutor, run: RunRequest, request: SamplingRequest) -> None:
        self._workers, self._poll = executor.workers, executor.poll
        self._run, self._request = run, request
        self._connection: Connection | None = None
        self._next = run.first_block
        self._open = True

    def __next__(self) -> LatentBlock:
        if not self._open or self._next >= self._run.plan.num_blocks:
            self.close()
            raise StopIteration
        connection = self._connection or self._workers.connection(self._poll)

        def ended(error: BaseException) -> BaseException:
            if isinstance(error, ConnectionLost):
                self._open = False
                return self._workers.failure(connection)
            self._cancel()
            return error

        with replaced(BaseException, ended):
            if self._connection is None:
                self._start(connection)
            connection.send(More(number=self._run.number, block=self._next))
            block = self._receive_block(connection)
        self._next += 1
        return block

    def rings(self) -> dict[str, Tensor] | None:
        """Ends the run. None when nothing was sampled, the workers have finished one more block, or they are gone."""
        self._cancel()
        if self._connection is None or self._next == self._run.first_block:
            return None
        with contextlib.suppress(ConnectionLost):
            self._connection.send(WantRings(number=self._run.number, after=self._next - 1))
            count = self._receive(self._connection, Rings).count
            return None if count is None else self._receive_rings(self._connection, count)
        return None

    def close(self) -> None:
        self._cancel()
        if self._connection is not None:
            with contextlib.suppress(ConnectionLost):
                self._connection.send(Release(number=self._run.number))
        self._connection = None

    def _start(self, connection: Connection) -> None:
        self._connection = connection
        connection.begin(self._run.number, self._request.conditions)
        connection.send(self._run)
        for name, tensor in (self._request.start.rings or {}).items():
            connection.send(Ring(number=self._run.number, name=name, tensor=tensor))

    def _cancel(self) -> None:
        if self._connection is not None and self._open:
            with contextlib.suppress(ConnectionLost):
                self._connection.send(Cancel(number=self._run.number))
        self._open = False

    def _receive_block(self, connection: Connection) -> LatentBlock:
        block, plan = self._receive(connection, Block), self._run.plan
        expected = (self._next, plan.clip_of(self._next), plan.latent_size)
        if (block.index, block.clip, tuple(block.latents.shape[2:])) != expected:
            raise MachineError(
                f"the workers gave block {block.index} of clip {block.clip}, {list(block.latents.shape)}, instead of "
                f"block {expected[0]} of clip {expected[1]}, {list(expected[2])}"
            )
        for rank, size in zip(connection.about.ranks, block.caches or (), strict=False):
            rank.caches = size
        rings = None if block.rings is None else self._receive_rings(connection, block.rings)
        return LatentBlock(block.index, block.clip, block.latents, rings)

    def _receive_rings(self, connection: Connection, count: int) -> dict[str, Tensor]:
        rings = [self._receive(connection, Ring) for _ in range(count)]
        return {ring.name: ring.tensor for ring in rings}

    def _receive(self, connection: Connection, kind: type[Kind]) -> Kind:
        """The next message of a kind; steps that are reported before it go to `after_step`."""
        while True:
            message = connection.receive(self._run.number, self._poll)
            if isinstance(message, kind):
                return message
            if isinstance(message, RunRefused):
                raise InputError(message.reason)
            if isinstance(message, Step) and self._request.after_step is not None and self._open:
                self._request.after_step(
                    Evaluation(message.block, message.step, message.sigma, message.latents, message.velocity)
                )
