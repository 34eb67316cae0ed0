"""From an executor's name and devices to the executor."""

from collections.abc import Sequence
from pathlib import Path

import torch

from ..config import AvatarConfig
from ..dit.model import CausalWanS2V
from ..errors import InputError
from ..planning.memory import ON_DEVICE, Placement
from .devices import AUTO, FSDP, LAYER_PIPELINE, LOCAL, TIMESTEP_PIPELINE, check_devices
from .executor import Executor
from .workers import LocalWorkers

PRECISIONS_IN_WORKERS = ("auto", "bf16", "fp16", "fp32")


def resolve(executor: str, devices: Sequence[torch.device]) -> str:
    """The executor that "auto" stands for: layer_pipeline when several devices are named, else local."""
    if executor != AUTO:
        return executor
    return LAYER_PIPELINE if len(devices) > 1 else LOCAL


def in_process_executor(
    name: str,
    model: CausalWanS2V,
    devices: Sequence[torch.device],
    dtype: torch.dtype,
    placement: Placement = ON_DEVICE,
) -> Executor:
    """`local` or a pipeline in this process; `model` is on the first device. Raises InputError for wrong devices."""
    from .local import LocalExecutor
    from .partition import split_evenly
    from .pipelines import LayerPipelineExecutor, TimestepPipelineExecutor
    from .stage_model import replicate, spread_layers

    check_devices(name, list(devices), model.config)
    if name == LAYER_PIPELINE:
        layers = split_evenly(model.config.num_layers, len(devices))
        return LayerPipelineExecutor(spread_layers(model, layers, devices), layers, dtype)
    if name == TIMESTEP_PIPELINE:
        return TimestepPipelineExecutor(replicate(model, devices), dtype)
    return LocalExecutor.placed(model, devices[0], dtype, placement)


def local_workers(
    executor: str,
    devices: Sequence[torch.device],
    config: AvatarConfig,
    path: Path,
    loras: Sequence[tuple[Path, float]],
    precision: str,
) -> LocalWorkers:
    """A group on this machine that loads the model when it is first used. Raises InputError for what cannot work."""
    check_devices(executor, list(devices), config)
    if precision not in PRECISIONS_IN_WORKERS:
        raise InputError(
            f"precision is {precision}; with executor {executor} it must be one of {', '.join(PRECISIONS_IN_WORKERS)}, "
            "because its workers load the file themselves"
        )
    names = ",".join(map(str, devices))
    arguments = ["--model", str(path.resolve()), "--executor", executor, "--devices", names, "--precision", precision]
    for lora, strength in loras:
        arguments += ["--lora", str(lora.resolve()), str(strength)]
    return LocalWorkers(len(devices), arguments)


def needs_workers(executor: str) -> bool:
    """Whether an executor runs in processes of its own even on one machine."""
    return executor == FSDP
