"""Weights that stay on the disk because memory has no room for them, by accelerate's hooks for big models.

A layer's weight is read (and unpacked) when the layer is called and dropped after it. That is slow, but every model
runs so. What is left in memory are the few weights that are no products of layers, 2 % of the 14B model.
"""

from collections.abc import Mapping

import torch
from accelerate.hooks import (
    AlignDevicesHook,
    ModelHook,
    SequentialHook,
    attach_align_device_hook,
    remove_hook_from_module,
)
from accelerate.utils import set_module_tensor_to_device
from torch import Tensor, nn

LAYERS = ("blocks", "audio_injector")
"""Parts of the model whose layers are always called as modules; of others a weight may be read on its own."""


def keep_on_disk(model: nn.Module, weights: Mapping[str, Tensor], device: torch.device | str = "cpu") -> None:
    """Fill an empty model (on the meta device): layers that read their weights from `weights` when they are called, and
    compute on `device`; everything else is loaded there.

    `weights` makes a tensor anew at every access.
    """
    offloaded = [
        (name, layer)
        for part in LAYERS
        for name, layer in model.get_submodule(part).named_modules(prefix=part)
        if isinstance(layer, nn.Linear)
    ]
    late = {f"{name}.{weight}" for name, layer in offloaded for weight, _ in layer.named_parameters()}
    for name, parameter in list(model.named_parameters()):
        dtype = weights_dtype(weights, name)
        if name in late:
            set_module_tensor_to_device(model, name, "meta", dtype=dtype)
        else:
            set_module_tensor_to_device(model, name, device, value=weights[name], dtype=dtype or parameter.dtype)
    for name, layer in offloaded:
        attach_align_device_hook(layer, device, offload=True, weights_map=weights, module_name=name)


def weights_dtype(weights: Mapping[str, Tensor], name: str) -> torch.dtype:
    """Dtype of a weight, without making it where the mapping knows."""
    known = getattr(weights, "dtype_of", None)
    return known(name) if known is not None else weights[name].dtype


def move(module: nn.Module, device: torch.device) -> nn.Module:
    """`module` itself, its weights on `device`; those that were kept on the disk for the processor are read to it.

    For the processor they stay on the disk.
    """
    if device.type == "cpu":
        return module
    for layer in module.modules():
        hook = _disk_hook(layer)
        if hook is not None:
            names = [name for name, _ in layer.named_parameters(recurse=False)]
            values = {name: hook.weights_map[name] for name in names}
            remove_hook_from_module(layer)
            for name, value in values.items():
                set_module_tensor_to_device(layer, name, device, value=value, clear_cache=False)
    return module.to(device)


def is_on_disk(module: nn.Module) -> bool:
    """Whether any of a module's weights are read from the disk when they are needed."""
    return any(_disk_hook(layer) is not None for layer in module.modules())


def _disk_hook(layer: nn.Module) -> AlignDevicesHook | None:
    hook: ModelHook | None = getattr(layer, "_hf_hook", None)
    hooks = hook.hooks if isinstance(hook, SequentialHook) else (hook,)
    return next((one for one in hooks if isinstance(one, AlignDevicesHook) and one.offload), None)
