"""The stages of a pipeline in ComfyUI's process: what each device holds, under ComfyUI's memory management."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch

from liveavatar_runtime.device_kinds import shares_ram
from liveavatar_runtime.devices import LAYER_PIPELINE, TIMESTEP_PIPELINE
from liveavatar_runtime.dit.attention import AttentionKernel
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.errors import InputError, MachineError
from liveavatar_runtime.planning.measured import Measurements
from liveavatar_runtime.planning.memory import CacheChoice, KVCacheChoice, Machine, choose_placement
from liveavatar_runtime.sampling.plan import ClipPlan

from .avatar import AvatarModel
from .core_model import tree_of
from .layer_hooks import hooks_of
from .memory import device_memory, free_ram, load_on_device, make_room
from .model_patches import deciding
from .sampling_job import SamplingJob

if TYPE_CHECKING:
    from liveavatar_runtime.planning.measured import Timed
    from liveavatar_runtime.planning.stages import StagePlan
    from liveavatar_runtime.sampling.run import Executor

    from .comfy_types import Patcher

PIPELINES = (LAYER_PIPELINE, TIMESTEP_PIPELINE)
BOUND = ("injection/", "module/")
"""Places of patches (`model_patches`) that change the layers of one copy of a model."""
Share = tuple[torch.device, frozenset[int]]

_MEASUREMENTS = Measurements()
_CLONES: "WeakKeyDictionary[AvatarModel, dict[Share, Patcher]]" = WeakKeyDictionary()


def plan_pipeline(job: SamplingJob, executor: str, caches: CacheChoice) -> "StagePlan":
    """Layers and caches of each device, for a pipeline. Raises MachineError when nothing fits."""
    from liveavatar_runtime.planning.stages import StageDevice, plan_stages

    model = job.model
    if executor == TIMESTEP_PIPELINE:
        return _plan_steps(job, caches)
    timed = timed_work(model, job.plan, len(model.devices) < model.config.num_layers)
    home = model.devices[0]
    # On the processor stages and decoder share the same cores, however the layers are split.
    decodes = home == job.vae.patcher.load_device and home.type != "cpu"
    devices = [StageDevice(room, speed) for room, speed in zip(device_shares(job), timed.speeds, strict=True)]
    return plan_stages(timed.work, devices, own_place(caches.kv_cache, model.devices), caches.kv_dtype, decodes)


def _plan_steps(job: SamplingJob, caches: CacheChoice) -> "StagePlan":
    """Of a timestep pipeline: each device has the whole model and caches of its steps."""
    from liveavatar_runtime.pipeline.schedule import split_steps
    from liveavatar_runtime.planning.stages import StagePlan

    model, plan = job.model, job.plan
    parts = split_steps(plan.steps, len(model.devices))
    memory = min(device_shares(job)[: len(parts)])
    machine = Machine(device=memory, ram=free_ram(), weights=model.patcher.model_size())
    part = replace(plan, steps=max(map(len, parts)))
    asked = own_place(caches.kv_cache, model.devices), caches.kv_dtype
    placement = choose_placement(model.config, part, model.dtype, machine, *asked, "sequential")
    return StagePlan(TIMESTEP_PIPELINE, (range(model.config.num_layers),) * len(parts), placement)


def own_place(kv_cache: KVCacheChoice, devices: Sequence[torch.device]) -> KVCacheChoice:
    """Where caches may be, given devices: for those whose memory is the system's, RAM is no other place."""
    return "device" if kv_cache == "auto" and all(map(shares_ram, devices)) else kv_cache


def timed_work(model: AvatarModel, plan: ClipPlan, decides: bool) -> "Timed":
    """The work of a plan, and how fast its parts are on the devices, if that decides anything."""
    from liveavatar_runtime.planning.measured import Timed, measured_on
    from liveavatar_runtime.planning.workload import Workload

    work = Workload(model.config, plan, model.dtype)
    kept = model.patcher.model_size() / work.weights(range(model.config.num_layers))
    work = replace(work, weight_bytes=work.weight_bytes * kept)
    if not decides or len(model.devices) < 2:
        return Timed(work, (1.0,) * len(model.devices))
    return measured_on(work, model.devices, _MEASUREMENTS, make_room)


def describe_stages(model: AvatarModel, stages: "StagePlan", plan: ClipPlan) -> str:
    """For the node: what each device does."""
    from liveavatar_runtime.pipeline.schedule import split_steps

    if stages.executor == TIMESTEP_PIPELINE:
        what, parts = "steps", split_steps(plan.steps, len(model.devices))
    else:
        what, parts = "layers", stages.layers
    shares = (f"{device}: {what} {part[0]} to {part[-1]}" for device, part in zip(model.devices, parts, strict=False))
    return "\n".join(shares)


def device_shares(job: SamplingJob) -> list[int]:
    """Bytes of memory for each stage: stages on one device share it, also with the VAE if that is there."""
    devices = job.model.devices
    decoding, stages = job.decoder_bytes, Counter(devices)

    def room(device: torch.device) -> int:
        decodes = device == job.vae.patcher.load_device
        return max(0, usable_memory(device) - decoding * decodes) // stages[device]

    return [room(device) for device in devices]


def usable_memory(device: torch.device) -> int:
    """Bytes of a device that programs can fill."""
    from liveavatar_runtime.planning.machines import RESERVED_SHARE

    return int(device_memory(device) * (1 - RESERVED_SHARE))


def pipeline_executor(
    job: SamplingJob, stages: "StagePlan", attention: AttentionKernel, compile_layers: bool
) -> "Executor":
    """The executor of a pipeline, with the model's weights loaded on all devices."""
    from liveavatar_runtime.executors.pipelines import LayerPipelineExecutor, TimestepPipelineExecutor, cache_maker
    from liveavatar_runtime.pipeline.stage_model import PlacedModel, share_of

    model, make_cache = job.model, cache_maker(stages.placement)
    # There may be more devices than steps.
    devices = model.devices[: len(stages.layers)]
    patchers = _loaded(job, stages, devices)
    transformers = {device: transformer_of(model, patcher, attention) for device, patcher in patchers.items()}
    if compile_layers:
        for transformer in transformers.values():
            transformer.compile_layers()
    if stages.executor == TIMESTEP_PIPELINE:
        whole = [PlacedModel(transformers[device], device) for device in devices]
        return TimestepPipelineExecutor(whole, model.dtype, make_cache, stages.placement)
    parts = zip(stages.layers, devices, strict=True)
    places = [PlacedModel(share_of(transformers[device], layers), device) for layers, device in parts]
    return LayerPipelineExecutor(places, stages.layers, model.dtype, make_cache, stages.placement)


def _loaded(job: SamplingJob, stages: "StagePlan", devices: Sequence[torch.device]) -> "dict[torch.device, Patcher]":
    """The model's layers on the devices, with room for the work."""
    from liveavatar_runtime.planning.memory import working_bytes
    from liveavatar_runtime.planning.out_of_memory import sampling_told

    model, plan = job.model, job.plan
    layers_on: dict[torch.device, set[int]] = {device: set() for device in devices}
    for device, layers in zip(devices, stages.layers, strict=True):
        layers_on[device].update(layers)
    patchers = {device: patcher_on(model, device, layers) for device, layers in layers_on.items()}
    share = replace(model.config, num_layers=max(map(len, layers_on.values())), audio_inject_layers=())
    needed = working_bytes(share, plan, model.dtype, stages.placement) + job.decoding_bytes
    first, *others = patchers.values()
    with sampling_told(share, plan, model.dtype, stages.placement, devices[0]):
        load_on_device(first, needed, also_needed=[*others, job.vae.patcher])
    return patchers


def transformer_of(model: AvatarModel, patcher: "Patcher", attention: AttentionKernel) -> CausalWanS2V:
    """The runtime's transformer over the modules that the patcher holds now, with the patcher's hooks in its layers."""
    return CausalWanS2V.adopt(tree_of(patcher), model.config, attention, hooks_of(patcher, model.config.num_layers))


def patcher_on(model: AvatarModel, device: torch.device, layers: set[int]) -> "Patcher":
    """The model's own patcher where it is whole and at home, else core's clone for the device, with these layers only.

    Raises MachineError when core cannot clone the model.
    """
    if device == model.patcher.load_device and len(layers) == model.config.num_layers:
        return model.patcher
    clones = _CLONES.setdefault(model, {})
    key = (device, frozenset(layers))
    if key not in clones:
        # Another plan may have split the layers in another way: its clone is of no use any more.
        for old in [share for share in clones if share[0] == device]:
            del clones[old]
        clones[key] = clone_for(model, device, layers)
    return clones[key]


def check_clonable(patcher: "Patcher") -> None:
    """Raises InputError when the model has parts that hold on to the layers of one copy of it."""
    bound = [found.maker or found.place for found in deciding(patcher) if found.place.startswith(BOUND)]
    if bound:
        raise InputError(
            f"base_model brings {', '.join(dict.fromkeys(bound))}, which works on ComfyUI's own device only; use an "
            "ordinary LoRA node instead, or set devices of Load Avatar Model to auto and executor to local"
        )


def clone_for(model: AvatarModel, device: torch.device, layers: set[int]) -> "Patcher":
    from liveavatar_runtime.dit.attention import sdpa
    from liveavatar_runtime.pipeline.stage_model import drop_other_layers

    if not hasattr(model.patcher, "deepclone_multigpu"):
        raise MachineError("this ComfyUI cannot put a model on several GPUs; update ComfyUI, or use executor local")
    check_clonable(model.patcher)
    try:
        clone = model.patcher.deepclone_multigpu(new_load_device=device)
    except RuntimeError as error:
        raise MachineError(
            f"the connected model cannot be put on several GPUs: {error} Choose the file in Load Avatar Model instead "
            "of base_model, or use executor local."
        ) from error
    # What replaces modules, as compiling nodes do, replaces them by those of the first copy.
    clone.object_patches = {name: value for name, value in clone.object_patches.items() if not _is_module(name)}
    tree = tree_of(clone)
    drop_other_layers(tree, transformer_of(model, clone, sdpa), sorted(layers))
    kept = clone.model_state_dict().keys()
    clone.patches = {name: patches for name, patches in clone.patches.items() if name in kept}
    clone.size = 0
    return clone


def _is_module(object_name: str) -> bool:
    """Whether an object patch stands for a part of the transformer."""
    return object_name.split(".")[0] == "diffusion_model"
