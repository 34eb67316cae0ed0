"""Executor `local`: the whole model on one device, one evaluation at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..dit.model import CausalWanS2V
from ..sampling.block_loop import AfterStep, LatentBlock, sample_blocks
from ..sampling.conditions import Conditions
from ..sampling.plan import ClipPlan


@dataclass(frozen=True)
class LocalExecutor:
    """`dtype` is that of hidden states and caches; latents between the steps are always float32."""

    model: CausalWanS2V
    device: torch.device
    dtype: torch.dtype

    def run(
        self, conditions: Conditions, plan: ClipPlan, first_block: int = 0, after_step: AfterStep | None = None
    ) -> Iterator[LatentBlock]:
        blocks = sample_blocks(self.model, plan, conditions, self.dtype, self.device, after_step)
        # The caches of a later block exist only after those before it, so these are sampled again, not kept.
        return (block for block in blocks if block.index >= first_block)
