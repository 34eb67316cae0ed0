"""The executors of a job: its model brought to where it samples, under ComfyUI's memory management."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from liveavatar_runtime.dit.attention import AttentionKernel
from liveavatar_runtime.sampling.run import Executor

from .memory import CorePinning, load_on_device
from .sampling_job import SamplingJob
from .stage_models import patcher_on, transformer_of
from .worker_model import worker_executor

if TYPE_CHECKING:
    from liveavatar_runtime.planning.stages import StagePlan

    from .comfy_types import Patcher
    from .executor_choice import ChosenExecutor


def executor_of(
    job: SamplingJob, chosen: "ChosenExecutor", attention: AttentionKernel, compile_layers: bool
) -> Executor:
    """Loads the model on its devices, but for workers. Raises DeviceFullError when it finds no room there."""
    if job.model.workers is not None:
        return worker_executor(job.model.workers, job.model.devices, chosen.placement)
    assert chosen.stages is not None
    return executor_here(job, chosen.stages, attention, compile_layers)


def executor_here(
    job: SamplingJob, stages: "StagePlan", attention: AttentionKernel, compile_layers: bool
) -> "Executor":
    """The executor of a plan for this process, with the model's weights loaded on all of its devices."""
    from liveavatar_runtime.executors.table import here
    from liveavatar_runtime.sampling.evaluator import PlacedModel

    model = job.model
    # There may be more devices than stages.
    devices = model.devices_here[: len(stages.layers)]
    patchers = _loaded(job, stages, devices)
    transformers = {device: transformer_of(model, patcher, attention) for device, patcher in patchers.items()}
    if compile_layers:
        for transformer in transformers.values():
            transformer.compile_layers()
    places = [PlacedModel(transformers[device], device) for device in devices]
    return here(stages.executor).build(stages, places, model.dtype, CorePinning())


def _loaded(job: SamplingJob, stages: "StagePlan", devices: Sequence[torch.device]) -> "dict[torch.device, Patcher]":
    """The model's layers on the devices, with room for the work."""
    from liveavatar_runtime.planning.memory import working_bytes
    from liveavatar_runtime.planning.out_of_memory import sampling_told

    layers_on: dict[torch.device, set[int]] = {device: set() for device in devices}
    for device, layers in zip(devices, stages.layers, strict=True):
        layers_on[device].update(layers)
    patchers = {device: patcher_on(job.model, device, layers) for device, layers in layers_on.items()}
    # Of the device with the most layers, for all steps.
    most = job.work.of_stage(range(max(map(len, layers_on.values()))), job.work.steps, stages.blocks)
    first, *others = patchers.values()
    with sampling_told(most, stages.placement, devices[0]):
        # Blocks are finished by the thread that decodes them, so only one of both works at a time.
        needed = working_bytes(most, stages.placement) + max(job.decoding_bytes, job.beside.working_bytes)
        load_on_device(first, needed, also_needed=[*others, job.vae.patcher, *job.beside.models])
    return patchers
