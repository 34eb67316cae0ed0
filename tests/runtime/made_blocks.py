"""A run of sampling whose blocks a test makes itself, for tests of what reads a stream."""

from collections.abc import Callable, Iterator

from torch import Tensor

from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import KeepRings, LatentBlock, RunStart


class MadeRun(Iterator[LatentBlock]):
    """`make(block number)` gives the latents [16, 3, h, w]; it may raise. There is no state to continue from."""

    def __init__(self, make: Callable[[int], Tensor], plan: ClipPlan, start: RunStart) -> None:
        self._blocks = self._made(make, plan, start.first_block)

    @classmethod
    def start(cls, make: Callable[[int], Tensor]) -> Callable[[ClipPlan, RunStart, KeepRings], "MadeRun"]:
        """What a LatentStream takes to begin sampling."""
        return lambda plan, start, keep_rings: cls(make, plan, start)

    @staticmethod
    def _made(make: Callable[[int], Tensor], plan: ClipPlan, first: int) -> Iterator[LatentBlock]:
        for block in range(first, plan.num_blocks):
            yield LatentBlock(block, plan.clip_of(block), make(block))

    def __next__(self) -> LatentBlock:
        return next(self._blocks)

    def rings(self) -> dict[str, Tensor] | None:
        return None

    def close(self) -> None:
        pass
