"""Transformers on several devices: in this process, in worker processes (FSDP), or on other machines."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from liveavatar_runtime.errors import InputError
from liveavatar_runtime.planning.memory import KVCacheChoice, KVTypeChoice, ScheduleChoice
from liveavatar_runtime.sampling.plan import ClipPlan

from . import comfy_bridge as bridge
from .stage_models import check_clonable
from .types import AvatarModel

if TYPE_CHECKING:
    from liveavatar_runtime.parallel.executor import Executor
    from liveavatar_runtime.planning.memory import Placement

TOKEN_FILE = "liveavatar-workers-token"
"""In ComfyUI's user folder. The token is no widget, because workflows are shared."""


def chosen_places(executor: str, devices: str) -> list[torch.device]:
    """The devices of an executor in this process or in a group; none for ComfyUI's own. Raises InputError."""
    from liveavatar_runtime.parallel.devices import AUTO, FSDP, LOCAL, check_executor, check_groups, parse_devices

    check_executor(executor)
    if executor == FSDP:
        check_groups(executor)
    own = devices.strip() in ("", AUTO) and executor in (AUTO, LOCAL)
    return [] if own else parse_devices(devices, bridge.own_device().type)


def on_devices(avatar: AvatarModel, executor: str, devices: str) -> AvatarModel:
    """The model with the chosen executor and devices in this process. Raises InputError when they do not fit."""
    from liveavatar_runtime.parallel.create import resolve
    from liveavatar_runtime.parallel.devices import check_devices

    places = chosen_places(executor, devices)
    name = resolve(executor, places)
    check_devices(name, places, avatar.config)
    if any(device != avatar.patcher.load_device for device in places):
        check_clonable(avatar.patcher)
    return replace(avatar, executor=name, devices=tuple(places))


def idle_devices(executor: str, devices: str, present: Sequence[torch.device]) -> str | None:
    """For the user who has several GPUs and named none: that one of them works; `present` are the machine's devices."""
    from liveavatar_runtime.parallel.devices import AUTO

    gpus = [device for device in present if device.type == "cuda"]
    if len(gpus) < 2 or executor != AUTO or devices.strip() not in ("", AUTO):
        return None
    return (
        f"{len(gpus)} GPUs are here and one is used: set devices to {','.join(map(str, gpus))} to use all, or executor "
        "to local to keep it so."
    )


def refuse_base_model(base_model: Any) -> None:
    """Raises InputError when a MODEL is connected: workers load files."""
    if base_model is not None:
        raise InputError(
            "base_model is connected, but workers load the model's file themselves; disconnect it, or choose another "
            "executor and leave workers empty"
        )


def model_of_group(
    executor: str, devices: str, path: Path, loras: Sequence[tuple[Path, float]], precision: str
) -> AvatarModel:
    """The model, without its key, in a group of workers here, which starts when the first block is asked for."""
    from liveavatar_runtime.checkpoint.detect import config_beside, detect_config
    from liveavatar_runtime.checkpoint.safetensors_io import open_checkpoint
    from liveavatar_runtime.parallel.create import dtype_in_workers, local_workers
    from liveavatar_runtime.parallel.devices import parse_devices

    checkpoint = open_checkpoint(path, mapped=bridge.maps_files())
    config = detect_config(checkpoint, config_beside(path))
    places = parse_devices(devices, bridge.own_device().type)
    folder, mapped = bridge.hashes_folder(), bridge.maps_files()
    workers = local_workers(executor, places, config, path, loras, precision, folder, mapped)
    dtype = dtype_in_workers(checkpoint, precision, places[0])
    return AvatarModel(None, config, dtype, executor, tuple(places), workers)


def model_of_address(address: str) -> AvatarModel:
    """The model of workers that somebody started; connects, so that a wrong address or token is told at once."""
    from liveavatar_runtime.config import AvatarConfig
    from liveavatar_runtime.parallel.workers import RemoteWorkers

    workers = RemoteWorkers(address, workers_token())
    about = workers.link(bridge.stop_if_interrupted).about
    dtype = getattr(torch, about["dtype"])
    return AvatarModel(
        None, AvatarConfig.from_dict(about["config"]), dtype, about["executor"], (), workers, about["key"]
    )


def worker_executor(model: AvatarModel, placement: "Placement") -> "Executor":
    """The executor of runs in the model's workers, which ComfyUI's interruption stops."""
    from liveavatar_runtime.parallel.remote import RemoteExecutor

    bridge.make_room_for_others(model.devices)
    return RemoteExecutor(model.workers, bridge.stop_if_interrupted, placement)


def worker_placement(
    model: AvatarModel,
    plan: ClipPlan,
    vae_bytes: int,
    kv_cache: KVCacheChoice,
    kv_dtype: KVTypeChoice,
    schedule: ScheduleChoice,
) -> "Placement":
    """Where each rank's caches are: planned for devices of this machine, for others as the widgets say.

    Raises MachineError when nothing fits.
    """
    from liveavatar_runtime.planning.memory import Machine, Placement, choose_placement
    from liveavatar_runtime.planning.workload import Workload

    if not model.devices:
        place = "ram" if kv_cache == "ram" else "device"
        return Placement(place, "fp8" if kv_dtype == "fp8" else "model", schedule == "batched")
    ranks = len(model.devices)
    weights = Workload(model.config, plan, model.dtype).weights(range(model.config.num_layers)) // ranks
    memory = min(bridge.device_memory(device) for device in model.devices)
    # All ranks share the memory of the host, and on the processor that is the device as well.
    own = memory // ranks if model.devices[0].type == "cpu" else None
    ram = bridge.free_ram() // ranks
    machine = Machine(device=own or memory, ram=ram, weights=weights, beside=vae_bytes, pool=own)
    return choose_placement(model.config, plan, model.dtype, machine, kv_cache, kv_dtype, schedule)


def workers_token() -> str:
    """Raises InputError when there is none."""
    from liveavatar_runtime.parallel.channel import TOKEN_VARIABLE

    file = bridge.user_file(TOKEN_FILE)
    token = os.environ.get(TOKEN_VARIABLE) or (file.read_text(encoding="utf-8-sig").strip() if file.is_file() else "")
    if not token:
        raise InputError(f"the workers' token is missing; put it into {file}, the same as at the workers")
    return token


def describe_workers(avatar: AvatarModel) -> str:
    """For the node: where the model is."""
    if not avatar.devices:
        return f"{avatar.executor} on the workers' machines"
    return f"{avatar.executor} on {', '.join(map(str, avatar.devices))}"
