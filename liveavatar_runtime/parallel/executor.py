"""What every executor offers: conditions and a plan in, latent blocks in order out."""

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from ..sampling.block_loop import FROM_THE_BEGINNING, AfterStep, KeepRings, LatentBlock, RunStart
from ..sampling.conditions import Conditions
from ..sampling.plan import ClipPlan


class Run(Iterator[LatentBlock], Protocol):
    """Blocks in order, made when they are asked for."""

    def rings(self) -> dict[str, Tensor] | None:
        """What the blocks after the last yielded one need of the caches, also when the next one was interrupted.

        None when later blocks are past it, as in a pipeline; `keep_rings` works everywhere.
        """
        ...

    def close(self) -> None:
        """Stop, and let go of the model and the caches; may be called at any time, and again."""
        ...


class Executor(Protocol):
    """Runs the model on one or more devices. Equal plans and conditions give equal latents on every executor."""

    def run(
        self,
        conditions: Conditions,
        plan: ClipPlan,
        start: RunStart = FROM_THE_BEGINNING,
        after_step: AfterStep | None = None,
        keep_rings: KeepRings | None = None,
    ) -> Run:
        """Blocks from `start` to the plan's last. `after_step` is called by the thread that asks for the blocks and
        may raise to interrupt; `keep_rings` tells after which blocks the state is wanted (`LatentBlock.rings`)."""
        ...
