"""States that sampling is continued from: what they hold, which are kept, and how they become smaller."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..dit.fp8 import from_fp8, to_fp8
from ..sampling.plan import ClipPlan

SMALL_STATE = 64 * 2**20
"""States up to this size are kept after every clip: it costs less than a second and saves every clip from a crash."""

SPARE_CLIPS = 16
"""Small states of so many last clips are kept; larger ones are at least so many clips apart."""

BITS, SCALE, DTYPE = ".fp8", ".fp8_scale", "fp8_of"
"""Ends of the names of a ring in fp8; and the name of an empty tensor of the type that the rings had."""

StateType = Literal["auto", "model", "fp8"]


@dataclass(frozen=True)
class State:
    """What sampling is continued from: the next block, the rings before it, finished blocks of its clip (or None).

    `rings` as in `LatentBlock.rings`; `latents` float32 [16, 3 * blocks, h, w].
    """

    next_block: int
    rings: Mapping[str, Tensor]
    latents: Tensor | None = None

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.rings.values())


@dataclass(frozen=True)
class StateSizes:
    """Bytes of a state as the caches are, and in fp8; caches that are in fp8 themselves are not larger as they are."""

    exact: int
    in_fp8: int


@dataclass(frozen=True)
class StateSettings:
    """`size`: bytes of one state, known from the plan; `budget`: bytes that the states of a video may take; `fp8`:
    whether the rings are kept in fp8, from which a video goes on almost, not exactly, as it would have."""

    size: int = 0
    budget: int = 8 * 2**30
    fp8: bool = False

    @classmethod
    def choose(cls, sizes: StateSizes, budget: int, choice: StateType) -> "StateSettings":
        """auto takes fp8 only if exact ones are too large. Caches that are in fp8 themselves are kept as they are."""
        exact, in_fp8 = sizes.exact, sizes.in_fp8
        fp8 = in_fp8 < exact and (choice == "fp8" or (choice == "auto" and in_fp8 <= budget < exact))
        return cls(in_fp8 if fp8 else exact, budget, fp8)

    @property
    def allowed(self) -> bool:
        return self.size <= self.budget

    @property
    def at_every_clip(self) -> bool:
        return self.size <= min(self.budget, SMALL_STATE)

    def wanted_after(self, plan: ClipPlan, block: int) -> bool:
        """Whether the state after a block of `plan` (the whole one, with its segments) is kept."""
        if not self.allowed or (block + 1) % plan.blocks_per_clip:
            return False
        if self.at_every_clip:
            return True
        return block + 1 < plan.num_blocks and (ends_segment(plan, block + 1) or self._to_go_back_to(plan, block + 1))

    def _to_go_back_to(self, plan: ClipPlan, next_block: int) -> bool:
        """Whether people may go back to this place: a change of the script begins in the clip, or it is one of those
        that are evenly spaced, where there are no segments."""
        clip = next_block // plan.blocks_per_clip
        spaced = not plan.segment_clips and clip % self._spacing(plan) == 0
        return spaced or any(plan.clip_of(change.block) == clip for change in plan.script.changes)

    def _spacing(self, plan: ClipPlan) -> int:
        """Clips from one state to the next, so that all of them take no more than a quarter of the budget."""
        fewest = 1 if self.at_every_clip else SPARE_CLIPS
        return max(fewest, math.ceil(4 * plan.num_clip * self.size / max(1, self.budget)))

    def kept(self, plan: ClipPlan, sizes: Mapping[int, int]) -> set[int]:
        """Of states before these blocks (of so many bytes) those that stay: the newest and, as far as the budget
        reaches, those worth keeping."""
        blocks = sorted(sizes, reverse=True) if self.allowed else []
        kept, left = set(blocks[:1]), self.budget - sum(sizes[block] for block in blocks[:1])
        for block in blocks[1:]:
            if self.worth_keeping(plan, block, blocks[0]) and sizes[block] <= left:
                kept.add(block)
                left -= sizes[block]
        return kept

    def bytes_of(self, plan: ClipPlan) -> int:
        """What states may take until the plan's segment is finished: those kept, and one that is just written."""
        ends = range(plan.blocks_per_clip, plan.segment.blocks.stop + 1, plan.blocks_per_clip)
        written = {block: self.size for block in ends if self.wanted_after(plan, block - 1)}
        return min(self.budget, self.size * (len(self.kept(plan, written)) + 1)) if self.allowed else 0

    def worth_keeping(self, plan: ClipPlan, next_block: int, newest: int) -> bool:
        """Whether the state before a block is still of use once there is a newer one: to repair a damaged clip, or to
        go back to."""
        rest = next_block % plan.blocks_per_clip
        recent = newest - next_block <= SPARE_CLIPS * plan.blocks_per_clip
        spare = self.at_every_clip and not rest and recent
        return spare or ends_segment(plan, next_block) or (not rest and self._to_go_back_to(plan, next_block))


def ends_segment(plan: ClipPlan, next_block: int) -> bool:
    """Whether a segment of the plan begins with this block."""
    return bool(plan.segment_clips) and next_block % (plan.segment_clips * plan.blocks_per_clip) == 0


def rings_in_fp8(rings: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rings [tokens, heads, head_dim] of one floating-point type, at about half the size of bf16."""
    kept: dict[str, Tensor] = {}
    for name, ring in rings.items():
        kept[name + BITS], kept[name + SCALE] = to_fp8(ring)
        kept.setdefault(DTYPE, torch.empty(0, dtype=ring.dtype))
    return kept


def rings_from_fp8(kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The rings of `rings_in_fp8`, in the type they had."""
    names = [name.removesuffix(BITS) for name in kept if name.endswith(BITS)]
    return {name: from_fp8(kept[name + BITS], kept[name + SCALE]).to(kept[DTYPE].dtype) for name in names}
