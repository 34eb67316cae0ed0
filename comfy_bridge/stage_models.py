"""The model on each device of ComfyUI's process: its own patcher, or a clone with the layers of that device."""

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch

from liveavatar_runtime.dit.attention import AttentionKernel
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.errors import InputError, MachineError

from .avatar import AvatarModel
from .core_model import tree_of
from .layer_hooks import hooks_of
from .model_patches import deciding

if TYPE_CHECKING:
    from .comfy_types import Patcher

BOUND = ("injection/", "module/")
"""Places of patches (`model_patches`) that change the layers of one copy of a model."""
Share = tuple[torch.device, frozenset[int]]

_CLONES: "WeakKeyDictionary[AvatarModel, dict[Share, Patcher]]" = WeakKeyDictionary()


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
