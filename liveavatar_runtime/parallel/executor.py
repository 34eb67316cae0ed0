"""What every executor offers: conditions and a plan in, latent blocks in order out."""

from collections.abc import Iterator
from typing import Protocol

from ..sampling.block_loop import AfterStep, LatentBlock
from ..sampling.conditions import Conditions
from ..sampling.plan import ClipPlan


class Executor(Protocol):
    """Runs the model on one or more devices. Equal plans and conditions give equal latents on every executor."""

    def run(
        self, conditions: Conditions, plan: ClipPlan, first_block: int = 0, after_step: AfterStep | None = None
    ) -> Iterator[LatentBlock]:
        """Blocks from `first_block` to the plan's last, in order; lazy. `after_step` may raise to interrupt."""
        ...
