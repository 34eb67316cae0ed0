"""LatentStream: finished blocks are replayed, only the rest is sampled, and nothing is held after an end."""

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch

from liveavatar_runtime.sampling.block_loop import LatentBlock
from liveavatar_runtime.sampling.latent_stream import LatentStream
from liveavatar_runtime.sampling.plan import ClipPlan

PLAN = ClipPlan(num_clip=2, infer_frames=24, width=64, height=64, keep_aspect=False)


class Caches:
    """Stands for what sampling keeps on the device."""


class Sampling:
    """Starts of sampling, the blocks that were made, and whether their caches are still held."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.starts: list[int] = []
        self.made: list[int] = []
        self.fail_at = fail_at
        self.caches: weakref.ref[Caches] | None = None

    def __call__(self, first: int) -> Iterator[LatentBlock]:
        self.starts.append(first)
        caches = Caches()
        self.caches = weakref.ref(caches)
        for block in range(first, PLAN.num_blocks):
            if block == self.fail_at:
                self.fail_at = None
                raise InterruptedError("stopped")
            self.made.append(block)
            yield LatentBlock(block, PLAN.clip_of(block), torch.full((16, 3, 8, 8), float(block)))
        del caches

    def holds_caches(self) -> bool:
        gc.collect()
        return self.caches is not None and self.caches() is not None


def stream_of(sampling: Sampling) -> LatentStream:
    return LatentStream(PLAN, torch.zeros(16, 7, 8, 8), sampling)


def test_nothing_is_sampled_before_the_first_block_is_asked_for():
    sampling = Sampling()
    stream = stream_of(sampling)
    assert len(stream) == PLAN.num_blocks and not sampling.starts
    assert next(iter(stream)).index == 0 and sampling.made == [0]


def test_a_second_iteration_replays():
    sampling = Sampling()
    stream = stream_of(sampling)
    first, second = [block.index for block in stream], [block.index for block in stream]
    assert first == second == list(range(PLAN.num_blocks))
    assert sampling.starts == [0] and sampling.made == first
    assert not sampling.holds_caches()


def test_an_interruption_loses_no_finished_block():
    sampling = Sampling(fail_at=2)
    stream = stream_of(sampling)
    with pytest.raises(InterruptedError):
        list(stream)
    assert stream.finished == 2 and not sampling.holds_caches()
    assert [block.index for block in stream] == list(range(PLAN.num_blocks))
    assert sampling.starts == [0, 2] and sampling.made == list(range(PLAN.num_blocks))


def test_a_reader_that_fails_leaves_no_caches_behind():
    sampling = Sampling()
    stream = stream_of(sampling)

    def read() -> None:
        for block in stream:
            if block.index == 1:
                raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        read()
    assert stream.finished == 2 and not sampling.holds_caches()
