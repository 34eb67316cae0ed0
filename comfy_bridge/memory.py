"""ComfyUI's memory management: models on devices, and what is free there."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar, cast

import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.utils
import psutil
import torch

from liveavatar_runtime.aligned import STAYS_ON_DISK
from liveavatar_runtime.sampling.pace import DeviceMemory
from liveavatar_runtime.texts import gib

from .comfy_types import Managed, Patcher

Module = TypeVar("Module", bound=torch.nn.Module)

ALIKE = 0.02
"""Sizes of one model by its file and as it is loaded differ by less."""


class CorePinning:
    """`Pinning` by ComfyUI: within its budget for all pinned memory, or not at all with --disable-pinned-memory."""

    def pin(self, memory: torch.Tensor) -> bool:
        core = comfy.model_management
        if self.room() < memory.nbytes and hasattr(core, "ensure_pin_registerable"):
            # Since ComfyUI 0.28: it unpins weights of models that are not in use.
            core.ensure_pin_registerable(memory.nbytes)
        return self.room() >= memory.nbytes and bool(core.pin_memory(memory))

    def unpin(self, memory: torch.Tensor) -> None:
        comfy.model_management.unpin_memory(memory)

    def room(self) -> int:
        """Bytes that may still be pinned."""
        core = comfy.model_management
        return max(0, int(core.MAX_PINNED_MEMORY - core.TOTAL_PINNED_MEMORY))


def pinning_warning(in_ram: int) -> str:
    """For a job with so many bytes of caches in RAM on CUDA; empty where ComfyUI lets all of them be pinned."""
    room = CorePinning().room()
    if in_ram <= room:
        return ""
    rest = (
        f"{gib(in_ram - room)} of {gib(in_ram)} of KV caches in RAM cannot be pinned, and copies from there are slower"
    )
    if comfy.model_management.MAX_PINNED_MEMORY <= 0:
        return f"{rest}. Start ComfyUI without --disable-pinned-memory, if it was given."
    return f"{rest}: ComfyUI pins {gib(room)} more at most. kv_dtype fp8 halves the caches."


def patcher_for(module: Module, load_device: torch.device, offload_device: torch.device) -> Managed[Module]:
    """ComfyUI's memory management around a module of ours."""
    return comfy.model_patcher.CoreModelPatcher(module, load_device=load_device, offload_device=offload_device)


def load_on_device(
    patcher: Managed[object], working_bytes: int = 0, also_needed: Sequence[Managed[object]] = ()
) -> torch.device:
    """Bring a model to its device, with so much memory free for the work; returns the device.

    The models of `also_needed` work at the same time, so they are not evicted to make room.
    """
    comfy.model_management.load_models_gpu([patcher, *also_needed], memory_required=working_bytes)
    return patcher.load_device


def own_device() -> torch.device:
    """The device that ComfyUI uses for models."""
    return comfy.model_management.get_torch_device()


def device_memory(device: torch.device) -> int:
    """Bytes of memory that a device has in all."""
    total = comfy.model_management.get_total_memory(device)
    return int(cast(int, total))


def tells_memory(device: torch.device) -> bool:
    """Whether ComfyUI knows how much memory a device has: of DirectML it always says 1 GiB."""
    return device.type == "cpu" or not comfy.model_management.directml_enabled


def on_disk_bytes(patcher: Patcher) -> int:
    """Bytes of a model's weights that stay in their file and are read whenever they are used."""
    # Since ComfyUI 0.18.
    if getattr(patcher, "is_dynamic", lambda: False)():
        return patcher.model_size()
    weights = patcher.model.parameters()
    return sum(weight.nbytes for weight in weights if getattr(weight, STAYS_ON_DISK, False))


def leaves_weights_on_disk() -> bool:
    """Whether ComfyUI reads the weights of models whenever they are used (since 0.18), instead of holding them."""
    kind = comfy.model_patcher.CoreModelPatcher
    return kind is not comfy.model_patcher.ModelPatcher and hasattr(kind, "is_dynamic")


@lru_cache(1)
def _this_process() -> psutil.Process:
    """Kept: to make one reads several files."""
    return psutil.Process()


@lru_cache(1)
def _ram_bytes() -> int:
    return int(psutil.virtual_memory().total)


def used_memory(device: torch.device) -> DeviceMemory | None:
    """What is taken of a device now, by whoever; of a processor, this process's RAM. None where nobody knows."""
    if device.type == "cpu":
        return DeviceMemory("cpu", _this_process().memory_info().rss, _ram_bytes())
    if not tells_memory(device):
        return None
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
    else:
        free, total = int(cast(int, comfy.model_management.get_free_memory(device))), device_memory(device)
    return DeviceMemory(str(device), total - free, total)


def in_ram(patcher: Patcher | None) -> int:
    """Bytes of a model's weights that are in system memory now, and not only in their file."""
    if patcher is None or on_disk_bytes(patcher):
        return 0
    return max(0, patcher.model_size() - patcher.loaded_size())


def loaded_in_ram(size: int) -> int:
    """Bytes in system memory of a model of about so many bytes that ComfyUI has loaded already; 0 where there is none.

    For plans before a run: such a model needs no memory once more.
    """
    found = [cast(Patcher | None, loaded.model) for loaded in comfy.model_management.current_loaded_models]
    alike = [model for model in found if model is not None and abs(model.model_size() - size) < ALIKE * size]
    return max((model.model_size() - model.loaded_size() for model in alike if not on_disk_bytes(model)), default=0)


def free_ram() -> int:
    """Bytes of system memory that are free."""
    free = comfy.model_management.get_free_memory(torch.device("cpu"))
    return int(cast(int, free))


def make_room_for_others(devices: Sequence[torch.device]) -> None:
    """Take ComfyUI's models off GPUs that other processes are going to use; they come back when they are needed."""
    cards = {device for device in devices if device.type == "cuda"}
    for card in cards:
        comfy.model_management.free_memory(device_memory(card), card)
    if cards:
        comfy.model_management.soft_empty_cache()


def make_room(device: torch.device, size: int) -> None:
    """Have so many bytes free on a GPU; models of ComfyUI that must go for it come back when they are needed."""
    if device.type == "cuda":
        comfy.model_management.free_memory(size, device)
        comfy.model_management.soft_empty_cache()
