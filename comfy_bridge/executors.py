"""The executors of a job: its model brought to where it samples, under ComfyUI's memory management."""

from typing import TYPE_CHECKING

from liveavatar_runtime.dit.attention import AttentionKernel
from liveavatar_runtime.sampling.run import Executor

from .memory import load_on_device
from .sampling_job import SamplingJob
from .stage_models import patcher_on, pipeline_executor, transformer_of
from .worker_model import worker_executor

if TYPE_CHECKING:
    from .executor_choice import ChosenExecutor


def executor_of(
    job: SamplingJob, chosen: "ChosenExecutor", attention: AttentionKernel, compile_layers: bool
) -> Executor:
    """Loads the model on its devices, but for workers. Raises DeviceFullError when it finds no room there."""
    if job.model.workers is not None:
        return worker_executor(job.model.workers, job.model.devices, chosen.placement)
    if chosen.stages is not None:
        return pipeline_executor(job, chosen.stages, attention, compile_layers)
    return _local_executor(job, chosen, attention, compile_layers)


def _local_executor(
    job: SamplingJob, chosen: "ChosenExecutor", attention: AttentionKernel, compile_layers: bool
) -> Executor:
    from liveavatar_runtime.executors.local import LocalExecutor
    from liveavatar_runtime.planning.memory import working_bytes
    from liveavatar_runtime.planning.out_of_memory import sampling_told

    model, plan, placement = job.model, job.plan, chosen.placement
    patcher = patcher_on(model, model.home, set(range(model.config.num_layers)))
    needed = working_bytes(model.config, plan, model.dtype, placement) + job.decoding_bytes
    with sampling_told(model.config, plan, model.dtype, placement, model.home):
        device = load_on_device(patcher, needed, also_needed=[job.vae.patcher])
    transformer = transformer_of(model, patcher, attention)
    if compile_layers:
        transformer.compile_layers()
    return LocalExecutor.placed(transformer, device, model.dtype, placement)
