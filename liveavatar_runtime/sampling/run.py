"""What sampling takes and gives: a request for the blocks of a plan, and an executor's run that makes them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from .conditions import Conditions
from .plan import ClipPlan

KeepRings = Callable[[int], bool]
"""Whether the state after this block is wanted, to continue from it later."""


@dataclass(frozen=True)
class Evaluation:
    """One run of the model: noisy `latents` and `velocity`, float32 [16, 3, h, w] on the model's device."""

    block: int
    step: int
    sigma: float
    latents: Tensor
    velocity: Tensor

    def clean(self) -> Tensor:
        """What the model expects without noise: x - sigma * v."""
        return self.latents - self.sigma * self.velocity


AfterStep = Callable[[Evaluation], None]
"""Called after each evaluation; may raise to stop."""


@dataclass(frozen=True)
class LatentBlock:
    """A finished block: number in the video, clip, latents float32 [16, 3, h, w] on the CPU, in the model's space.

    `rings`: when asked for, what the blocks after this one need of the caches (names: `KVCache.ring`). `replayed`: it
    was on the disk already, and nothing was sampled for it.
    """

    index: int
    clip: int
    latents: Tensor
    rings: dict[str, Tensor] | None = None
    replayed: bool = False


@dataclass(frozen=True)
class RunStart:
    """Where a run begins.

    `first_block`: the first block to yield. `first_frames`: first latent frame, float32 [16, 1, h, w], of the earlier
    blocks in `ClipPlan.sink_frames(first_block)` (of those before the warm-up, if it warms up). `rings`: the state
    after the block before; with None the blocks of at least one ring before it are sampled again and thrown away,
    which is exact only if that reaches block 0.
    """

    first_block: int = 0
    first_frames: Mapping[int, Tensor] = field(default_factory=dict)
    rings: Mapping[str, Tensor] | None = None


FROM_THE_BEGINNING = RunStart()


@dataclass(frozen=True)
class SamplingRequest:
    """The blocks of `plan` from `start` on. `after_step` is called by the thread that asks for the blocks and may raise
    to interrupt; `keep_rings` tells after which blocks the state is wanted (`LatentBlock.rings`)."""

    conditions: Conditions
    plan: ClipPlan
    start: RunStart = FROM_THE_BEGINNING
    after_step: AfterStep | None = None
    keep_rings: KeepRings | None = None

    def keeps_rings(self, block: int) -> bool:
        return self.keep_rings is not None and self.keep_rings(block)


class SamplingRun(Iterator[LatentBlock], Protocol):
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

    def run(self, request: SamplingRequest) -> SamplingRun: ...
