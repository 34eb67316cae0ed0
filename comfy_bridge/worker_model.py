"""Transformers on several devices: in this process, in worker processes (FSDP), or on other machines."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from liveavatar_runtime.errors import InputError

from .avatar import AvatarModel
from .folders import hashes_folder, maps_files, user_file
from .memory import make_room_for_others, own_device
from .progress import stop_if_interrupted
from .stage_models import check_clonable

if TYPE_CHECKING:
    from liveavatar_runtime.dit.placement import Placement
    from liveavatar_runtime.sampling.run import Executor
    from liveavatar_workers.client.groups import Workers
    from liveavatar_workers.client.named import NamedGroup

GROUPS_FILE, KEY_FILE = "liveavatar-workers.ini", "liveavatar-comfyui.key"
"""In ComfyUI's user folder: addresses of workers by name, and the secret key of this ComfyUI. Workflows, which are
shared, have neither."""
REPOSITORY = "https://github.com/liveavatar/ComfyUI-LiveAvatar"
SOURCE = f"git+{REPOSITORY}#subdirectory=liveavatar_workers"
IN_CHECKOUT = Path(__file__).parents[1] / "liveavatar_workers"


def require_workers(what: str) -> None:
    """Raises InputError, with what to install, when the package for processes and machines cannot be used."""
    try:
        import liveavatar_workers.client.groups  # noqa: F401
    except ImportError as error:
        source = IN_CHECKOUT if IN_CHECKOUT.is_dir() else SOURCE
        raise InputError(
            f"{what} needs the package liveavatar_workers, which this ComfyUI cannot use: {error}. Install it with "
            f'ComfyUI\'s Python and start ComfyUI again: python -m pip install "{source}"'
        ) from error


def chosen_places(executor: str, devices: str) -> list[torch.device]:
    """The devices of an executor in this process or in a group; none for ComfyUI's own. Raises InputError."""
    from liveavatar_runtime.devices import AUTO, parse_devices
    from liveavatar_runtime.executors.table import check_executor, check_groups, needs_named_devices, runs_here

    check_executor(executor)
    if not runs_here(executor):
        check_groups(executor)
        require_workers(f"executor {executor}")
    own = devices.strip() in ("", AUTO) and not needs_named_devices(executor)
    return [] if own else parse_devices(devices, own_device().type)


def on_devices(avatar: AvatarModel, executor: str, devices: str) -> AvatarModel:
    """The model with the chosen executor and devices in this process. Raises InputError when they do not fit."""
    from liveavatar_runtime.executors.table import check_devices, resolve

    places = chosen_places(executor, devices)
    name = resolve(executor, places)
    check_devices(name, places, avatar.config)
    if any(device != avatar.patcher.load_device for device in places):
        check_clonable(avatar.patcher)
    return replace(avatar, executor=name, devices=tuple(places))


def idle_devices(executor: str, devices: str, present: Sequence[torch.device]) -> str | None:
    """For the user who has several GPUs and named none: that one of them works; `present` are the machine's devices."""
    from liveavatar_runtime.devices import AUTO

    gpus = [device for device in present if device.type == "cuda"]
    if len(gpus) < 2 or executor != AUTO or devices.strip() not in ("", AUTO):
        return None
    return (
        f"{len(gpus)} GPUs are here and one is used: set devices to {','.join(map(str, gpus))} to use all, or executor "
        "to local to keep it so."
    )


def check_group_name(workers: str) -> None:
    """Raises InputError for a name that the user's file does not have; none is no name."""
    if workers.strip():
        named_group(workers)


def refuse_base_model(base_model: object) -> None:
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
    from liveavatar_runtime.devices import parse_devices
    from liveavatar_workers.client.create import ModelFiles, dtype_in_workers, local_workers

    checkpoint = open_checkpoint(path, mapped=maps_files())
    config = detect_config(checkpoint, config_beside(path))
    places = parse_devices(devices, own_device().type)
    files = ModelFiles(path, loras, hashes_folder(), maps_files())
    workers = local_workers(executor, places, config, files, precision)
    dtype = dtype_in_workers(checkpoint, precision, places[0])
    return AvatarModel(None, config, dtype, executor, tuple(places), workers)


def named_group(name: str) -> "NamedGroup":
    """Where workers are that somebody started. Raises InputError, with what to write where, for an unknown name."""
    require_workers("workers")
    from liveavatar_workers.client.named import read_group

    return read_group(user_file(GROUPS_FILE), name)


def model_of_name(name: str) -> AvatarModel:
    """The model of workers that somebody started; connects, so that a wrong address or key is told at once."""
    group = named_group(name)
    from liveavatar_workers.client.groups import RemoteWorkers
    from liveavatar_workers.keys import read_pair

    workers = RemoteWorkers(group.address, read_pair(user_file(KEY_FILE)), group.key)
    about = workers.connection(stop_if_interrupted).about
    return AvatarModel(None, about.config, getattr(torch, about.dtype), about.executor, (), workers, about.key)


def worker_executor(workers: "Workers", devices: Sequence[torch.device], placement: "Placement") -> "Executor":
    """The executor of runs in workers, which ComfyUI's interruption stops; `devices` of this machine are theirs."""
    from liveavatar_workers.client.executor import RemoteExecutor

    make_room_for_others(devices)
    return RemoteExecutor(workers, stop_if_interrupted, placement)


def describe_workers(avatar: AvatarModel) -> str:
    """For the node: where the model is."""
    if not avatar.devices:
        return f"{avatar.executor} on the workers' machines"
    return f"{avatar.executor} on {', '.join(map(str, avatar.devices))}"
