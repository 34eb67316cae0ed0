"""What a rank of a group runs for each executor that groups can run: a table beside that of the runtime."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.distributed.device_mesh import init_device_mesh

from liveavatar_runtime.checkpoint.offload import move
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.executors.groups import FSDP
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.executors.pipelines import LAYER_PIPELINE, TIMESTEP_PIPELINE
from liveavatar_runtime.pipeline.schedule import LayerSchedule, TimestepSchedule, split_steps
from liveavatar_runtime.pipeline.stage_model import share_of

from .pipeline_worker import PipelinePart
from .rank_layers import agree_on_layers
from .ranks import Rank


@dataclass(frozen=True)
class RankModel:
    """The whole model as a rank has loaded it, the dtype it computes in, and whether its weights stay in RAM between
    their uses."""

    rank: Rank
    model: CausalWanS2V
    dtype: torch.dtype
    offload: bool = False


def _fsdp(loaded: RankModel) -> LocalExecutor:
    # Not above: FSDP is imported by those who use it only, as it takes a second.
    from .fsdp import shard

    rank, model = loaded.rank, loaded.model
    if rank.size == 1:
        # There is nothing to share.
        model = move(model, rank.device)
    else:
        model = shard(model, init_device_mesh(rank.device.type, (rank.size,)), loaded.offload)
    return LocalExecutor(model, rank.device, loaded.dtype)


def _layers(loaded: RankModel) -> PipelinePart:
    """Its layers of the model."""
    rank, model, dtype = loaded.rank, loaded.model, loaded.dtype
    layers = agree_on_layers(rank, rank.size, model.config, dtype)
    part = move(share_of(model, layers[rank.number]), rank.device)
    return PipelinePart(part, dtype, lambda plan: LayerSchedule(layers, plan.steps))


def _steps(loaded: RankModel) -> PipelinePart:
    """Its steps of the whole model."""
    rank, layer_count = loaded.rank, loaded.model.config.num_layers
    return PipelinePart(
        move(loaded.model, rank.device),
        loaded.dtype,
        lambda plan: TimestepSchedule(layer_count, split_steps(plan.steps, rank.size)),
    )


ON_RANKS: dict[str, Callable[[RankModel], LocalExecutor | PipelinePart]] = {
    FSDP.name: _fsdp,
    LAYER_PIPELINE.name: _layers,
    TIMESTEP_PIPELINE.name: _steps,
}
"""Moves a rank's part of the model to its device, and gives what runs it."""
