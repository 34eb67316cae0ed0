"""Weights that stay on the disk because memory has no room for them, by accelerate's hooks for big models.

A layer's weight is read (and unpacked) when the layer is called and dropped after it. That is slow, but every model
runs so. What is left in memory are the few weights that are no products of layers, 2 % of the 14B model.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

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

from ..aligned import aligned

Module = TypeVar("Module", bound=nn.Module)

CPU = torch.device("cpu")
LAYERS = ("blocks", "audio_injector")
"""Parts of the model whose layers are always called as modules; of others a weight may be read on its own."""


def keep_on_disk(model: nn.Module, weights: Mapping[str, Tensor], dtype_of: Callable[[str], torch.dtype]) -> None:
    """Fill an empty model (on the meta device): layers read their weights from `weights` when they are called on the
    processor; everything else is loaded.

    `weights` makes a tensor anew at every access, and `dtype_of` tells its dtype before.
    """
    offloaded = [
        (name, layer)
        for part in LAYERS
        for name, layer in model.get_submodule(part).named_modules(prefix=part)
        if isinstance(layer, nn.Linear)
    ]
    late = {f"{name}.{weight}" for name, layer in offloaded for weight, _ in layer.named_parameters()}
    for name in [name for name, _ in model.named_parameters()]:
        if name in late:
            set_module_tensor_to_device(model, name, "meta", dtype=dtype_of(name))
        else:
            set_module_tensor_to_device(model, name, CPU, value=weights[name], dtype=dtype_of(name))
    for name, layer in offloaded:
        attach_align_device_hook(layer, CPU, offload=True, weights_map=_Aligned(weights), module_name=name)


class _Aligned(Mapping[str, Tensor]):
    """Weights as they are when a processor computes with them: a mapped file has them at any place."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = weights

    def __getitem__(self, name: str) -> Tensor:
        return aligned(self._weights[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def move(module: Module, device: torch.device) -> Module:
    """`module` itself, its weights on `device`. Those on the disk are read to it, but stay there for a processor."""
    if device.type == "cpu" and is_on_disk(module):
        return module
    load_from_disk(module, device)
    return module.to(device)


def load_from_disk(module: nn.Module, device: torch.device) -> None:
    """Read to `device` the weights of `module` that are on the disk, one by one; they stay on it."""
    for layer in module.modules():
        hook = _disk_hook(layer)
        if hook is not None:
            weights: Any = hook.weights_map
            remove_hook_from_module(layer)
            for name, _ in list(layer.named_parameters(recurse=False)):
                set_module_tensor_to_device(layer, name, device, value=weights[name])


def is_on_disk(module: nn.Module) -> bool:
    """Whether any of a module's weights are read from the disk when they are needed."""
    return any(_disk_hook(layer) is not None for layer in module.modules())


def _disk_hook(layer: nn.Module) -> AlignDevicesHook | None:
    hook: ModelHook | None = getattr(layer, "_hf_hook", None)
    hooks = hook.hooks if isinstance(hook, SequentialHook) else (hook,)
    return next((one for one in hooks if isinstance(one, AlignDevicesHook) and one.offload), None)
