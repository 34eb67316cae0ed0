"""Executor `local`: the whole model on one device."""

from dataclasses import dataclass
from functools import partial

import torch

from ..aligned import align_weights
from ..dit.kv_cache import ResidentCache
from ..dit.model import CausalWanS2V
from ..dit.placement import ON_DEVICE, Placement
from ..dit.staged_cache import StagedCache
from ..planning.out_of_memory import sampling_told
from ..sampling.block_run import BlockRun
from ..sampling.evaluator import Evaluator, MakeCache, PlacedModel
from ..sampling.run import SamplingRequest


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

    def run(self, request: SamplingRequest) -> BlockRun:
        def evaluator() -> Evaluator:
            # Not where weights are loaded: their owner may have put others in their place since.
            align_weights(self.model, self.device)
            return Evaluator(PlacedModel(self.model, self.device), request, self.dtype, self.make_cache)

        plan = request.plan
        told = partial(sampling_told, self.model.config, plan, self.dtype, self.placement, self.device)
        return BlockRun(evaluator, request, plan.steps if self.batched else 1, told)
