"""Work in threads: order, room, errors, interruption, and no thread left behind."""

import threading
import time
import weakref

import pytest
import torch

from liveavatar_runtime.media import threads as module
from liveavatar_runtime.media.threads import ThreadPipeline


class Recorder:
    """Functions that note what they did; one of them may fail at an item."""

    def __init__(self, fail_first: int | None = None, fail_second: int | None = None, seconds: float = 0.0) -> None:
        self.first_done: list[int] = []
        self.second_done: list[int] = []
        self.fail = (fail_first, fail_second)
        self.seconds = seconds
        self.modes: set[bool] = set()

    def first(self, item: int) -> int:
        time.sleep(self.seconds)
        self.modes.add(torch.is_inference_mode_enabled())
        if item == self.fail[0]:
            raise ZeroDivisionError(f"first {item}")
        self.first_done.append(item)
        return item * 10

    def second(self, item: int) -> None:
        time.sleep(self.seconds)
        if item == (self.fail[1] or -1) * 10:
            raise KeyError(f"second {item}")
        self.second_done.append(item)


def stage_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("live-avatar")]


def test_all_items_pass_in_order_and_with_gradients_off():
    work = Recorder()
    with ThreadPipeline([work.first, work.second]) as pipeline:
        for item in range(200):
            pipeline.put(item)
    assert work.first_done == list(range(200)) and work.second_done == [10 * n for n in range(200)]
    assert work.modes == {True} and not stage_threads()


def test_a_thread_that_waits_holds_no_item():
    """A block of video in a local variable would be one more than the planner counts."""
    done, seen = [], []

    class Block:
        pass

    def second(block: Block) -> None:
        seen.append(weakref.ref(block))
        done.append(True)

    with ThreadPipeline([lambda block: Block(), second]) as pipeline:
        for _ in range(3):
            block = Block()
            seen.append(weakref.ref(block))
            pipeline.put(block)
            del block
        deadline = time.monotonic() + 60
        while (len(done) < 3 or any(ref() for ref in seen)) and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(done) == 3 and not any(ref() for ref in seen)


def test_no_more_items_than_there_is_room_for():
    """One in each function and one before each of them."""
    work, lead = Recorder(seconds=0.01), 0
    with ThreadPipeline([work.first, work.second]) as pipeline:
        for item in range(20):
            pipeline.put(item)
            lead = max(lead, item + 1 - len(work.second_done))
    assert lead <= 4 + 1, "the caller's own item comes on top"


@pytest.mark.parametrize("at", [0, 3, 19])
def test_an_error_of_the_first_function_finishes_what_it_made(at):
    work = Recorder(fail_first=at)
    with pytest.raises(ZeroDivisionError, match=f"first {at}"):
        with ThreadPipeline([work.first, work.second]) as pipeline:
            for item in range(20):
                pipeline.put(item)
    assert work.second_done == [10 * n for n in range(at)] and not stage_threads()


def test_an_error_of_the_last_function_stops_the_first():
    work = Recorder(fail_second=3)
    with pytest.raises(KeyError, match="second 30"):
        with ThreadPipeline([work.first, work.second]) as pipeline:
            for item in range(1000):
                pipeline.put(item)
    assert len(work.first_done) < 10 and work.second_done == [0, 10, 20] and not stage_threads()


def test_check_tells_of_an_error_between_two_puts():
    work = Recorder(fail_first=0)
    with pytest.raises(ZeroDivisionError):
        with ThreadPipeline([work.first, work.second]) as pipeline:
            pipeline.put(0)
            while True:
                time.sleep(0.01)
                pipeline.check()


def test_an_error_of_the_caller_finishes_accepted_items():
    work = Recorder(seconds=0.02)
    with pytest.raises(KeyboardInterrupt):
        with ThreadPipeline([work.first, work.second]) as pipeline:
            for item in range(10):
                if item == 5:
                    raise KeyboardInterrupt
                pipeline.put(item)
    assert work.second_done == [0, 10, 20, 30, 40] and not stage_threads()


def test_the_caller_can_stop_while_it_waits_for_the_end():
    work, calls = Recorder(seconds=0.3), 0

    def meanwhile() -> None:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        with ThreadPipeline([work.first, work.second], meanwhile=meanwhile) as pipeline:
            pipeline.put(1)
    assert work.second_done == [10] and not stage_threads()


def test_no_more_grace_than_allowed(monkeypatch):
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.1)
    work = Recorder(seconds=0.4)
    with pytest.raises(KeyboardInterrupt):
        with ThreadPipeline([work.first, work.second], depth=8) as pipeline:
            for item in range(8):
                pipeline.put(item)
            raise KeyboardInterrupt
    assert len(work.first_done) <= 2 and not stage_threads()
