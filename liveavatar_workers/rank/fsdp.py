"""Executor `fsdp`: every rank computes the same blocks with the whole caches, and holds 1/N of the weights.

FSDP2 gathers a layer's weights when the layer is called, while the layer before it still computes, and lets go of them
afterwards. Sharded are all layers and the audio cross-attentions, 98 % of the 14B model's weights.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

from liveavatar_runtime.checkpoint.offload import CPU, load_from_disk
from liveavatar_runtime.dit.model import CausalWanS2V


def shard(model: CausalWanS2V, mesh: DeviceMesh, offload: bool = False) -> CausalWanS2V:
    """`model` itself, its weights moved to the mesh's device, each rank with its part; all ranks call it together.

    `offload` keeps the parts in system memory.
    """
    device = torch.device(mesh.device_type, torch.cuda.current_device()) if mesh.device_type == "cuda" else "cpu"
    policy = CPUOffloadPolicy() if offload and mesh.device_type == "cuda" else OffloadPolicy()
    options: dict[str, Any] = {"mesh": mesh, "offload_policy": policy}
    sharded: set[nn.Parameter] = set()
    for modules in _called_together(model):
        for module in modules:
            load_from_disk(module, CPU)
        fully_shard(list(modules), **options)
    for layer in model.blocks:
        load_from_disk(layer, CPU)
        fully_shard(layer, **options)
    for part in (model.blocks, model.audio_injector):
        sharded |= set(part.parameters())
    rest = {parameter for parameter in model.parameters() if parameter not in sharded}
    for parameter in rest:
        parameter.data = parameter.data.to(device)
    _prefetch(model)
    with _without(model, rest):
        root: Any = fully_shard(_Root(model), **options)
    root()
    return model


class _Root(nn.Module):
    """FSDP takes the first module that is called for the root of all; this one can be called before the others."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self) -> None:
        return None


def _called_together(model: CausalWanS2V) -> Iterable[tuple[nn.Module, ...]]:
    """Groups of modules that are called one by one but always all of them: gathered with the first, freed after the
    last. The keys and values of the text are made once a video, those of the voice once a block."""
    for layer in model.blocks:
        text: Any = layer.cross_attn
        yield text.k, text.norm_k, text.v
    voice: Any = model.audio_injector
    for attention, norm in zip(voice.injector, voice.injector_adain_layers, strict=True):
        yield norm.linear, attention.k, attention.norm_k, attention.v
        yield attention.q, attention.norm_q, attention.o


def _prefetch(model: CausalWanS2V) -> None:
    layers: list[Any] = list(model.blocks)
    for layer, following in zip(layers, layers[1:], strict=False):
        layer.set_modules_to_forward_prefetch([following])


@contextmanager
def _without(model: nn.Module, parameters: set[nn.Parameter]) -> Iterator[None]:
    """Inside, the model lacks these parameters, so that FSDP leaves them whole: its `ignored_params` came later."""
    taken = [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter in parameters
    ]
    for module, name, _ in taken:
        delattr(module, name)
    yield
    for module, name, parameter in taken:
        module.register_parameter(name, parameter)
