"""Executor `local`: the whole model on one device."""

from dataclasses import dataclass
from functools import partial

import torch

from ..dit.kv_cache import ResidentCache
from ..dit.model import CausalWanS2V
from ..dit.staged_cache import StagedCache
from ..planning.memory import Placement
from ..sampling.block_loop import FROM_THE_BEGINNING, AfterStep, BlockRun, BlockSampler, KeepRings, MakeCache, RunStart
from ..sampling.conditions import Conditions
from ..sampling.plan import ClipPlan


@dataclass(frozen=True)
class LocalExecutor:
    """`dtype` is that of hidden states and caches; latents between the steps are always float32.

    `batched`: as many blocks as there are steps go through the model together, so that its weights are read, or
    streamed from RAM, once a block instead of once a step.
    """

    model: CausalWanS2V
    device: torch.device
    dtype: torch.dtype
    make_cache: MakeCache = ResidentCache
    batched: bool = False

    @classmethod
    def placed(
        cls, model: CausalWanS2V, device: torch.device, dtype: torch.dtype, placement: Placement
    ) -> "LocalExecutor":
        """With the caches where the memory plan wants them."""
        staged = partial(
            StagedCache,
            place=placement.kv_cache,
            stored=placement.kv_dtype,
            device_layers=placement.device_layers,
        )
        return cls(model, device, dtype, ResidentCache if placement.resident else staged, placement.batched)

    def run(
        self,
        conditions: Conditions,
        plan: ClipPlan,
        start: RunStart = FROM_THE_BEGINNING,
        after_step: AfterStep | None = None,
        keep_rings: KeepRings | None = None,
    ) -> BlockRun:
        def sampler() -> BlockSampler:
            return BlockSampler.start(self.model, plan, conditions, self.dtype, self.device, self.make_cache)

        at_once = plan.steps if self.batched else 1
        return BlockRun(sampler, plan, start, at_once, after_step, keep_rings)
