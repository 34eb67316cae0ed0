"""One rank of a pipeline in worker processes: it runs one stage; rank 0 also passes on what ComfyUI and ranks want."""

import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..dit.model import CausalWanS2V
from ..errors import InputError
from ..planning.duration import FRAMES_PER_BLOCK
from ..sampling.block_loop import Evaluation
from ..sampling.plan import ClipPlan
from .desk import Cancelled, Desk
from .held import cache_bytes, measured
from .job import Job
from .pipelines import cache_maker
from .post import PostOffice
from .ranks import Rank
from .schedule import PipelineSchedule
from .stage import FinishedBlock, Result, RingPart, StageTask, run_told
from .transport import StageStopped
from .transport_distributed import DistributedTransport, Mailbox, file_letter

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

    def __init__(self, rank: Rank, desk: Desk | None, part: PipelinePart) -> None:
        self._rank, self._desk, self._part = rank, desk, part
        self._mailbox = Mailbox()
        self._results: Results | None = None
        self._office = PostOffice(rank, self._receive)

    def run(self, job: Job) -> None:
        """Until ComfyUI has all blocks, or wants no more; what came of it is told to ComfyUI."""
        mailbox, rank = self._mailbox, self._rank
        mailbox.begin(mailbox.run + 1)
        transport = DistributedTransport(rank, self._office, mailbox, lambda: self._is_cancelled(job))
        why = None
        try:
            schedule = self._part.schedule(job.plan)
            self._results = None if self._desk is None else Results(rank, self._desk, job, schedule)
            if rank.number < len(schedule.parts):
                self._run_stage(job, schedule, transport)
            if self._results is not None:
                results = self._results
                with rank.progress.expected(False):
                    mailbox.wait(lambda: results.complete or None, transport.check)
        except StageStopped:
            why = mailbox.stopped
        except Cancelled:
            why = ""
        except InputError as error:
            why = str(error)
            if not rank.leads:
                self._office.send(0, {"type": "stop", "run": mailbox.run, "why": why})
        if rank.leads and self._desk is not None:
            self._conclude(self._desk, job, why)

    def put(self, result: Result) -> None:
        """A result of this rank's stage goes to rank 0."""
        header: dict[str, Any] = {"type": type(result).__name__, "run": self._mailbox.run}
        if isinstance(result, Evaluation):
            header |= {"block": result.block, "step": result.step, "sigma": result.sigma}
            self._office.send(0, header, {"latents": result.latents, "velocity": result.velocity})
        elif isinstance(result, RingPart):
            self._office.send(0, {**header, "block": result.block}, result.tensors)
        else:
            self._office.send(0, {**header, "block": result.index}, {"latents": result.latents})

    def voice(self, job: Job, first: int, count: int, ahead: int) -> Tensor:
        """Features of a block's video frames: on rank 0 from ComfyUI, once it may be begun; on others from rank 0."""
        progress = self._rank.progress
        with progress.expected(False):
            if self._desk is not None:
                self._desk.wait_until_wanted(job.number, max(job.first_block, first // FRAMES_PER_BLOCK - ahead))
                return self._desk.audio(job.number, first, count)
            run = self._mailbox.run
            self._office.send(0, {"type": "voice", "run": run, "number": job.number, "first": first, "count": count})
            return self._mailbox.take(("voice", first), self._check_stopped)["audio"]

    def _run_stage(self, job: Job, schedule: PipelineSchedule, transport: DistributedTransport) -> None:
        task = StageTask(
            schedule=schedule,
            plan=job.plan,
            conditions=job.conditions(Voice(self, job, schedule.blocks_in_flight() + BLOCKS_AHEAD)),
            dtype=self._part.dtype,
            start=job.start(),
            keep_rings=lambda block: block in job.kept_rings,
            want_evaluations=True,
            make_cache=measured(self._rank, cache_maker(job.placement)),
            placement=job.placement,
        )
        with torch.inference_mode():
            run_told(self._rank.number, self._part.model, self._rank.device, task, transport, self)

    def _conclude(self, desk: Desk, job: Job, why: str | None) -> None:
        if why is None:
            desk.send({"type": "end", "number": job.number})
            return
        for number in range(1, self._rank.size):
            self._office.send(number, {"type": "stop", "run": self._mailbox.run, "why": why})
        told = {"type": "refused", "message": why} if why else {"type": "cancelled"}
        desk.send({**told, "number": job.number})

    def _is_cancelled(self, job: Job) -> bool:
        return self._desk is not None and self._desk.is_cancelled(job.number)

    def _check_stopped(self) -> None:
        if self._mailbox.stopped is not None:
            raise StageStopped
        self._office.check()

    def _receive(self, source: int, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """A letter of another rank, or a result of this one."""
        if file_letter(self._mailbox, source, header, tensors):
            return
        if header["type"] == "voice":
            self._answer(source, header)
        elif self._results is not None and header["run"] == self._mailbox.run:
            self._results.put(header, tensors)
            self._mailbox.wake()

    def _answer(self, source: int, header: dict[str, Any]) -> None:
        assert self._desk is not None
        try:
            audio = self._desk.audio(header["number"], header["first"], header["count"])
        except Cancelled:
            # Rank 0's stage notices it too, and stops all.
            return
        self._office.send(source, {**header, "type": "heard"}, {"audio": audio})


@dataclass(frozen=True)
class Voice:
    """The voice of a job's conditions on one rank."""

    worker: PipelineWorker
    job: Job
    ahead: int

    def frames(self, first: int, count: int) -> Tensor:
        return self.worker.voice(self.job, first, count, self.ahead)


class Results:
    """On rank 0: puts together what the stages give, and sends it to ComfyUI, blocks in order."""

    def __init__(self, rank: Rank, desk: Desk, job: Job, schedule: PipelineSchedule) -> None:
        self._rank, self._desk, self._job = rank, desk, job
        self._stages = len(schedule.parts)
        self._parts = sum(len(part.steps) for part in schedule.parts)
        self._lock = threading.Lock()
        self._rings: dict[int, list[dict[str, Tensor]]] = defaultdict(list)
        self._finished: dict[int, Tensor] = {}
        self._next = job.first_block

    @property
    def complete(self) -> bool:
        return self._next >= self._job.plan.num_blocks

    def put(self, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        with self._lock:
            if header["type"] == Evaluation.__name__:
                step = {"type": "step", "number": self._job.number}
                self._desk.send({**header, **step}, tensors)
            elif header["type"] == RingPart.__name__:
                self._rings[header["block"]].append(tensors)
            elif header["type"] == FinishedBlock.__name__:
                self._finished[header["block"]] = tensors["latents"]
            while self._next in self._finished and self._has_rings(self._next):
                self._send(self._next)
                self._next += 1

    def _has_rings(self, block: int) -> bool:
        return block not in self._job.kept_rings or len(self._rings[block]) == self._parts

    def _send(self, block: int) -> None:
        parts = self._rings.pop(block, None)
        rings = None if parts is None else {name: tensor for part in parts for name, tensor in part.items()}
        caches = cache_bytes(self._rank, self._stages) if block == self._job.first_block else None
        send_block(self._desk, self._job, block, self._finished.pop(block), rings, caches)


def send_block(
    desk: Desk, job: Job, index: int, latents: Tensor, rings: dict[str, Tensor] | None, caches: list[int] | None
) -> None:
    """A finished block to ComfyUI, then one message for each tensor of its rings.

    `caches`: with a run's first block, the bytes of caches on each rank.
    """
    count = None if rings is None else len(rings)
    clip = job.plan.clip_of(index)
    header = {"type": "block", "number": job.number, "index": index, "clip": clip, "rings": count, "caches": caches}
    desk.send(header, {"latents": latents})
    for name, tensor in (rings or {}).items():
        desk.send({"type": "ring", "number": job.number}, {name: tensor})
