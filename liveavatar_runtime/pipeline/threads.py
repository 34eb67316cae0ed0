"""Pipelines inside one process: a thread and, on CUDA, a stream for every stage; links are bounded queues.

Tensors change the device when they are received. A CUDA tensor travels with an event: the receiving stream waits for
the sender's, no thread does, so copies overlap with the computation of both. PyTorch copies from card to card
directly where the driver allows it and through pinned memory of the driver elsewhere.
"""

import contextlib
import threading
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from ..device_kinds import copies_ahead
from ..errors import InputError, handled, on_failure
from ..sampling.run import Evaluation, LatentBlock
from .stage import FinishedBlock, Result, RingPart, StageTask
from .transport import MessageKey, StageError, StageStopped, Tensors, Transport

OPERATIONS_AHEAD = 2
"""How many operations a stage's thread may hand to its CUDA stream before the card has done them."""
RESULTS_AHEAD = 4
"""How many steps' results, per step of the plan, may wait for the thread that takes the blocks."""


@dataclass(frozen=True)
class Parcel:
    """Tensors, and the moment in the sender's stream when they are ready (None on a CPU)."""

    tensors: Tensors
    ready: "torch.cuda.Event | None"


class Links:
    """All queues of one run, under one lock; whoever waits wakes up at once when the run is stopped."""

    def __init__(self, capacity: int, results: int) -> None:
        self.capacity, self.results_capacity = capacity, results
        self.error: BaseException | None = None
        self._stopped = False
        self._changed = threading.Condition()
        self._parcels: dict[tuple[int, int], dict[MessageKey, Parcel]] = defaultdict(dict)
        self._results: deque[tuple[Result, torch.cuda.Event | None]] = deque()

    def put(self, source: int, to: int, key: MessageKey, parcel: Parcel) -> None:
        with self._changed:
            link = self._parcels[source, to]
            self._wait(lambda: len(link) < self.capacity)
            link[key] = parcel
            self._changed.notify_all()

    def take(self, source: int, to: int, key: MessageKey) -> Parcel:
        with self._changed:
            link = self._parcels[source, to]
            self._wait(lambda: key in link)
            self._changed.notify_all()
            return link.pop(key)

    def put_result(self, result: Result, ready: "torch.cuda.Event | None") -> None:
        with self._changed:
            self._wait(lambda: len(self._results) < self.results_capacity)
            self._results.append((result, ready))
            self._changed.notify_all()

    def take_result(self) -> "tuple[Result, torch.cuda.Event | None]":
        """Raises the error of the stage that failed."""
        with self._changed:
            self._changed.wait_for(lambda: self._results or self._stopped)
            if self.error is not None:
                raise self.error
            if not self._results:
                raise StageStopped
            self._changed.notify_all()
            return self._results.popleft()

    def check(self) -> None:
        if self._stopped:
            raise StageStopped

    def stop(self, error: BaseException | None = None) -> None:
        """End the run; the first error is the one that is told."""
        with self._changed:
            if not self._stopped:
                self.error = error
            self._stopped = True
            self._parcels.clear()
            self._results.clear()
            self._changed.notify_all()

    def _wait(self, ready: Callable[[], bool]) -> None:
        self._changed.wait_for(lambda: self._stopped or ready())
        self.check()


class StagePort(Transport):
    """One stage's end of the links; also where its results go (`stage.Output`)."""

    def __init__(self, number: int, device: torch.device, links: Links) -> None:
        self.number, self.device, self.links = number, device, links
        self._ahead: deque[torch.cuda.Event] = deque()
        self._copies: torch.cuda.Stream | None = None

    def deliver(self, stage: int, key: MessageKey, tensors: Tensors) -> None:
        self.links.put(self.number, stage, key, Parcel(tensors, self._now()))

    def receive(self, stage: int, key: MessageKey) -> dict[str, Tensor]:
        parcel = self.links.take(stage, self.number, key)
        return {name: self._brought(tensor, parcel.ready) for name, tensor in parcel.tensors.items()}

    def put(self, result: Result) -> None:
        self.links.put_result(result, self._now())

    def check(self) -> None:
        self.links.check()
        event = self._now()
        if event is not None:
            self._ahead.append(event)
            if len(self._ahead) > OPERATIONS_AHEAD:
                self._ahead.popleft().synchronize()

    def _now(self) -> "torch.cuda.Event | None":
        if self.device.type != "cuda":
            return None
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _brought(self, tensor: Tensor, ready: "torch.cuda.Event | None") -> Tensor:
        """The tensor on this stage's device. A copy has a stream of its own, so that it does not wait for what this
        stage computes now; only what comes next waits for the copy."""
        if ready is not None:
            wait_for(ready, tensor)
        if tensor.device == self.device or self.device.type != "cuda":
            return tensor.to(self.device)
        if self._copies is None:
            self._copies = torch.cuda.Stream(self.device)
        with torch.cuda.stream(self._copies):
            moved = tensor.to(self.device, non_blocking=copies_ahead(self.device, tensor.device))
        stream = torch.cuda.current_stream(self.device)
        stream.wait_stream(self._copies)
        moved.record_stream(stream)
        return moved


def wait_for(ready: "torch.cuda.Event", tensor: Tensor) -> None:
    """Let this thread's stream on the tensor's card wait for another one that makes it."""
    stream = torch.cuda.current_stream(tensor.device)
    stream.wait_event(ready)
    # The allocator of the stream that made it must not give the memory away before this one has read it.
    tensor.record_stream(stream)


@dataclass(frozen=True)
class StageWorker:
    """What a thread runs: `work` gets the stage's port, which also takes its results."""

    device: torch.device
    work: Callable[[StagePort], None]


class PipelineRun(Iterator[LatentBlock]):
    """Blocks in order from stages at work; they begin at the first `next` and go on while a block is looked at."""

    def __init__(self, workers: Sequence[StageWorker], task: StageTask) -> None:
        self._workers, self._request = workers, task.request
        self._next = task.request.start.first_block
        # A link from the last stage back to the first holds at most one message of each block under way.
        steps = task.request.plan.steps
        self._links = Links(task.schedule.blocks_in_flight() + 2, RESULTS_AHEAD * steps)
        self._threads: list[threading.Thread] = []
        self._rings: dict[int, dict[str, Tensor]] = defaultdict(dict)
        # Threads know the links but not this object: they end when nobody holds the run any more.
        weakref.finalize(self, self._links.stop)

    def __next__(self) -> LatentBlock:
        if self._next >= self._request.plan.num_blocks:
            self.close()
            raise StopIteration
        with on_failure(self.close):
            if not self._threads:
                self._threads = start_threads(self._workers, self._links)
            return self._next_block()

    def rings(self) -> None:
        """Later blocks have always gone on: only `LatentBlock.rings` tells a state."""
        return

    def close(self) -> None:
        self._next = self._request.plan.num_blocks
        self._links.stop()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._rings.clear()

    def _next_block(self) -> LatentBlock:
        while True:
            result, ready = self._links.take_result()
            if ready is not None and not isinstance(result, RingPart):
                wait_for(ready, result.latents)
                if isinstance(result, Evaluation):
                    wait_for(ready, result.velocity)
            if isinstance(result, RingPart):
                self._rings[result.block].update(result.tensors)
            elif isinstance(result, Evaluation):
                if self._request.after_step is not None:
                    self._request.after_step(result)
            else:
                rings = self._rings.pop(result.index, None)
                if result.index >= self._request.start.first_block:
                    return self._finished(result, rings)

    def _finished(self, block: FinishedBlock, rings: dict[str, Tensor] | None) -> LatentBlock:
        self._next = block.index + 1
        return LatentBlock(block.index, self._request.plan.clip_of(block.index), block.latents.cpu(), rings)


def start_threads(workers: Sequence[StageWorker], links: Links) -> list[threading.Thread]:
    """One thread for each stage; those on the CPU share its threads of computation."""
    on_cpu = sum(worker.device.type == "cpu" for worker in workers)
    own = torch.get_num_threads()
    ready = threading.Barrier(len(workers) + 1)
    threads = []
    for number, worker in enumerate(workers):
        arguments = (number, worker, links, max(1, own // max(1, on_cpu)), ready)
        thread = threading.Thread(
            target=run_stage, args=arguments, name=f"LiveAvatar stage {number} on {worker.device}", daemon=True
        )
        thread.start()
        threads.append(thread)
    ready.wait()
    # A thread's setting is also the default of threads that come later: put that back.
    torch.set_num_threads(own)
    return threads


def run_stage(number: int, worker: StageWorker, links: Links, compute_threads: int, ready: threading.Barrier) -> None:
    if worker.device.type == "cpu":
        # The first call in a thread takes over the process's default; only then the thread's own number stays.
        torch.get_num_threads()
        torch.set_num_threads(compute_threads)
    ready.wait()

    def stop_all(error: BaseException) -> None:
        if isinstance(error, InputError) or not isinstance(error, Exception):
            # What was given, as a voice that is not readable, is no fault of this stage. Nor is an interruption:
            # ComfyUI's own operations raise it once, in whichever thread asks first.
            links.stop(error)
            return
        failure = failure_of(number, worker.device, error)
        failure.__cause__ = error
        links.stop(failure)

    # Whatever it is, the thread that waits must be told.
    with handled(BaseException, stop_all), suppress(StageStopped), torch.inference_mode(), on_own_stream(worker.device):
        worker.work(StagePort(number, worker.device, links))


class StageOutOfMemory(StageError, torch.cuda.OutOfMemoryError):
    """A stage's device is full; also of the class by which ComfyUI knows that it should unload its models."""


def failure_of(number: int, device: torch.device, error: BaseException) -> StageError:
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return StageOutOfMemory(f"stage {number} on {device} failed: {error}")
    return StageError(f"stage {number} on {device} failed: {type(error).__name__}: {error}")


@contextlib.contextmanager
def on_own_stream(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)
    # What was put on the card before, the weights above all, was put there on its default stream.
    stream.wait_stream(torch.cuda.default_stream(device))
    with torch.cuda.device(device), torch.cuda.stream(stream):
        yield
        stream.synchronize()
