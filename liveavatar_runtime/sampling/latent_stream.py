"""LatentStream: the lazy, re-iterable result of sampling, block by block."""

from collections.abc import Callable, Generator, Iterator

from torch import Tensor

from .block_loop import LatentBlock
from .plan import ClipPlan


class LatentStream:
    """Finished blocks are kept and replayed; the rest is sampled when it is asked for.

    `start(first)` begins sampling and yields the blocks from number `first` on; `priming` [16, n, h, w] is what
    a streaming decoder is given before the first block. An error or an interruption loses no finished block.
    """

    def __init__(self, plan: ClipPlan, priming: Tensor, start: Callable[[int], Iterator[LatentBlock]]) -> None:
        self.plan = plan
        self.priming = priming
        self._start = start
        self._finished: list[LatentBlock] = []
        self._running: Iterator[LatentBlock] | None = None

    def __len__(self) -> int:
        """Number of blocks, finished or not."""
        return self.plan.num_blocks

    @property
    def finished(self) -> int:
        """Number of blocks that need no sampling any more."""
        return len(self._finished)

    def __iter__(self) -> Generator[LatentBlock, None, None]:
        try:
            for index in range(len(self)):
                if index == len(self._finished):
                    self._finished.append(self._sample_next())
                yield self._finished[index]
        finally:
            # Sampling holds the caches, most of a card's memory: let go of them however the iteration ends.
            self._running = None

    def _sample_next(self) -> LatentBlock:
        if self._running is None:
            self._running = self._start(len(self._finished))
        return next(self._running)
