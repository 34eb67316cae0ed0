"""The executor of runs that workers compute: on this machine for FSDP, or on others."""

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from ..errors import InputError, MachineError
from ..planning.memory import ON_DEVICE, Placement
from ..sampling.block_loop import FROM_THE_BEGINNING, AfterStep, Evaluation, KeepRings, LatentBlock, RunStart
from ..sampling.conditions import Conditions
from ..sampling.plan import ClipPlan
from .channel import ChannelError, Message
from .job import Job
from .link import Link, Poll
from .workers import Workers


def never() -> None:
    """No interruption."""


@dataclass(frozen=True, eq=False)
class RemoteExecutor:
    """`poll` is called while the workers compute and may raise to interrupt; `placement`: of each rank's caches."""

    workers: Workers
    poll: Poll = never
    placement: Placement = ON_DEVICE

    def run(
        self,
        conditions: Conditions,
        plan: ClipPlan,
        start: RunStart = FROM_THE_BEGINNING,
        after_step: AfterStep | None = None,
        keep_rings: KeepRings | None = None,
    ) -> "RemoteRun":
        blocks = range(start.first_block, plan.num_blocks)
        kept = [block for block in blocks if keep_rings is not None and keep_rings(block)]
        job = Job.of(secrets.randbits(48), conditions, plan, start, kept, self.placement)
        return RemoteRun(self.workers, job, conditions, after_step, self.poll)


class RemoteRun(Iterator[LatentBlock]):
    """Blocks are computed when they are asked for; the workers are started by the first one."""

    def __init__(
        self, workers: Workers, job: Job, conditions: Conditions, after_step: AfterStep | None, poll: Poll
    ) -> None:
        self._workers, self._job, self._conditions = workers, job, conditions
        self._after_step, self._poll = after_step, poll
        self._link: Link | None = None
        self._next = job.first_block
        self._open = True

    def __next__(self) -> LatentBlock:
        if not self._open or self._next >= self._job.plan.num_blocks:
            self.close()
            raise StopIteration
        link = self._link or self._workers.link(self._poll)
        try:
            if self._link is None:
                self._start(link)
            link.send({"type": "more", "number": self._job.number, "block": self._next})
            block = self._receive_block(link)
        except ChannelError as error:
            self._open = False
            raise self._workers.failure(link) from error
        except BaseException:
            self._cancel()
            raise
        self._next += 1
        return block

    def rings(self) -> dict[str, Tensor] | None:
        """Ends the run. None when nothing was sampled, the workers have finished one more block, or they are gone."""
        self._cancel()
        if self._link is None or self._next == self._job.first_block:
            return None
        with contextlib.suppress(ChannelError):
            self._link.send({"type": "rings", "number": self._job.number, "after": self._next - 1})
            count = self._receive(self._link, "rings").header["count"]
            return None if count is None else self._receive_rings(self._link, count)
        return None

    def close(self) -> None:
        self._cancel()
        if self._link is not None:
            with contextlib.suppress(ChannelError):
                self._link.send({"type": "release", "number": self._job.number})
        self._link = None

    def _start(self, link: Link) -> None:
        self._link = link
        link.begin(self._job.number, self._conditions.audio)
        for message in self._job.messages():
            link.send(message.header, message.tensors)

    def _cancel(self) -> None:
        if self._link is not None and self._open:
            with contextlib.suppress(ChannelError):
                self._link.send({"type": "cancel", "number": self._job.number})
        self._open = False

    def _receive_block(self, link: Link) -> LatentBlock:
        message = self._receive(link, "block")
        header = message.header
        if header["index"] != self._next:
            raise MachineError(f"the workers gave block {header['index']} instead of {self._next}")
        for rank, size in zip(link.about["ranks"], header["caches"] or (), strict=False):
            rank["caches"] = size
        rings = None if header["rings"] is None else self._receive_rings(link, header["rings"])
        return LatentBlock(header["index"], header["clip"], message.tensors["latents"], rings)

    def _receive_rings(self, link: Link, count: int) -> dict[str, Tensor]:
        messages = [self._receive(link, "ring") for _ in range(count)]
        return {name: tensor for message in messages for name, tensor in message.tensors.items()}

    def _receive(self, link: Link, kind: str) -> Message:
        """The next message of a kind; steps that are reported before it go to `after_step`."""
        while True:
            message = link.receive(self._job.number, self._poll)
            if message.type == kind:
                return message
            if message.type == "refused":
                raise InputError(message.header["message"])
            if message.type == "step" and self._after_step is not None and self._open:
                self._after_step(_evaluation(message))


def _evaluation(message: Message) -> Evaluation:
    header, tensors = message.header, message.tensors
    return Evaluation(header["block"], header["step"], header["sigma"], tensors["latents"], tensors["velocity"])
