"""Work that passes through several threads in order, a bounded number of items at a time."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from queue import Empty, Full, Queue
from types import TracebackType
from typing import Any

import torch

from ..errors import handled
from ..stage_times import StageTimes

POLL_SECONDS = 0.05
GRACE_SECONDS = 5.0
_END = object()
_NONE_LEFT = object()


class ThreadPipeline:
    """Functions joined by bounded queues, each in a thread of its own; items keep their order.

        with ThreadPipeline([decode, encode]) as pipeline:
            for block in blocks:
                pipeline.put(block, meanwhile)

    A function takes what the one before returned; of an iterator, one after the other, each as soon as it is made.
    Leaving the block waits until all items are through. An error in a
    function is raised, as it is, by the next `put` or `check` and at the end; what is already past that function is
    still finished. When the caller's block raises, accepted items are finished too, for `GRACE_SECONDS` at most. No
    thread is left when the block has been left.

    depth: items that wait between two functions. give_up: called when accepted items are not waited for any longer; it
    ends functions that wait for another process. meanwhile: called about every 0.05 s while waiting, in the caller's
    thread, for progress and interruption; may raise. times: of each function, brought up to date by its thread.
    """

    def __init__(
        self,
        functions: Sequence[Callable[[Any], Any]],
        depth: int = 1,
        meanwhile: Callable[[], None] | None = None,
        give_up: Callable[[], None] | None = None,
        times: Sequence[StageTimes] | None = None,
    ) -> None:
        self._queues: list[Queue[Any]] = [Queue(depth) for _ in functions]
        self._times = times or [StageTimes() for _ in functions]
        self._meanwhile = meanwhile or (lambda: None)
        self._give_up = give_up or (lambda: None)
        # Functions before this number have nobody to work for.
        self._broken = 0
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(number, function), name=f"live-avatar-{function.__name__}")
            for number, function in enumerate(functions)
        ]

    def __enter__(self) -> "ThreadPipeline":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._end(self._meanwhile, None)
        finally:
            self._end(lambda: None, time.monotonic() + GRACE_SECONDS)
            # Whatever happened while waiting, nobody works on when this returns.
            self._break_before(len(self._threads))
            if any(thread.is_alive() for thread in self._threads):
                self._give_up()
            for thread in self._threads:
                thread.join()
        if error is None:
            self.check()

    def put(self, item: Any) -> None:
        """Hand over an item; waits for room. Raises the error of a function."""
        while not self._put(0, item):
            self._meanwhile()
            self.check()
        self.check()

    def check(self) -> None:
        """Raises the first error of a function, if there was one."""
        if self._error is not None:
            raise self._error

    def _end(self, meanwhile: Callable[[], None], deadline: float | None) -> None:
        """Tell the functions that no item follows, and wait for them."""
        told = False
        for thread in self._threads:
            while thread.is_alive() and (deadline is None or time.monotonic() < deadline):
                meanwhile()
                if told:
                    thread.join(POLL_SECONDS)
                else:
                    told = self._put(0, _END)

    def _run(self, number: int, function: Callable[[Any], Any]) -> None:
        # The mode belongs to the thread; without it every function would record gradients.
        with torch.inference_mode():
            while self._pass_on(number, function):
                pass
        self._hand_on(number, _END)

    # In frames of their own: while a thread waits for an item it has none, and while it waits for room only what it
    # made. One more would be one more block of video in memory.

    def _pass_on(self, number: int, function: Callable[[Any], Any]) -> bool:
        """Take the next item through a function; False when nothing follows."""
        made = self._made(number, function)
        if isinstance(made, Iterator):
            return self._pass_pieces_on(number, made)
        return made is not _END and self._hand_on(number, made)

    def _pass_pieces_on(self, number: int, pieces: Iterator[Any]) -> bool:
        """Make one after the other and hand it on; False when nothing follows."""
        following = partial(next, pieces, _NONE_LEFT)
        while True:
            piece = self._worked(number, following)
            if piece is _NONE_LEFT:
                return True
            if piece is _END or not self._hand_on(number, piece):
                return False
            piece = None

    def _made(self, number: int, function: Callable[[Any], Any]) -> Any:
        """What a function makes of the next item; _END when there is none, and when it fails."""
        item = self._next(number)
        return _END if item is _END else self._worked(number, partial(function, item))

    def _worked(self, number: int, work: Callable[[], Any]) -> Any:
        """What it gives; _END when it fails."""
        with self._times[number].measured("worked"), handled(BaseException, partial(self._fail, number)):
            return work()
        return _END

    def _next(self, number: int) -> Any:
        with self._times[number].measured("for_work"):
            while number >= self._broken:
                with suppress(Empty):
                    return self._queues[number].get(timeout=POLL_SECONDS)
        return _END

    def _hand_on(self, number: int, item: Any) -> bool:
        """Give an item to the next function; False when that one has ended."""
        if number + 1 == len(self._queues):
            return True
        with self._times[number].measured("for_room"):
            while self._broken <= number + 1:
                if self._put(number + 1, item):
                    return True
        return False

    def _put(self, number: int, item: Any) -> bool:
        with suppress(Full):
            self._queues[number].put(item, timeout=POLL_SECONDS)
            return True
        return False

    def _fail(self, number: int, error: BaseException) -> None:
        with self._lock:
            self._error = self._error or error
        self._break_before(number + 1)

    def _break_before(self, number: int) -> None:
        with self._lock:
            self._broken = max(self._broken, number)
