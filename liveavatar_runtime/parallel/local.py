"""Executor `local`: the whole model on one device."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ..dit.kv_cache import ResidentCache
from ..dit.model import CausalWanS2V
from ..dit.staged_cache import StagedCache
from ..planning.memory import ON_DEVICE, Placement
from ..planning.out_of_memory import sampling_told
from ..sampling.block_loop import (
    FROM_THE_BEGINNING,
    AfterStep,
    BlockRun,
    BlockSampler,
    KeepRings,
    LatentBlock,
    MakeCache,
    RunStart,
)
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
    placement: Placement = ON_DEVICE

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
        make_cache = ResidentCache if placement.resident else staged
        return cls(model, device, dtype, make_cache, placement.batched, placement)

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
        told = partial(sampling_told, self.model.config, plan, self.dtype, self.placement, self.device)
        return LocalRun(told, sampler, plan, start, at_once, after_step, keep_rings)


class LocalRun(BlockRun):
    """Raises DeviceFullError, with what frees memory, when the device is full; `told` makes the context for it."""

    def __init__(self, told: Callable[[], AbstractContextManager[None]], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._told = told

    def __next__(self) -> LatentBlock:
        with self._told():
            return super().__next__()
