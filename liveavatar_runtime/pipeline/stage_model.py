"""Models on devices: a share of the layers for each of them, or a copy of the whole for each."""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from ..dit.model import CausalWanS2V
from ..sampling.evaluator import PlacedModel

EMBEDDINGS = (
    "patch_embedding",
    "cond_encoder",
    "trainable_cond_mask",
    "text_embedding",
    "time_embedding",
    "time_projection",
    "casual_audio_encoder",
    "frame_packer",
)
"""What the first share has beside its layers; what it makes of text, time and voice is handed to the others."""
HEAD = "head"
INJECTOR_LISTS = ("injector", "injector_adain_layers")
"""Modules of the voice, one for each injection layer."""


def share_of(model: CausalWanS2V, layers: range) -> CausalWanS2V:
    """The part of a transformer that a stage with these layers needs, under the names of the whole.

    Its modules are those of the whole, not copies, and shares of different layers have none in common.
    """
    part = CausalWanS2V.__new__(CausalWanS2V)
    nn.Module.__init__(part)
    part.config, part.attention, part.begin_row = model.config, model.attention, model.begin_row
    part.pieces = model.pieces
    for name in EMBEDDINGS if layers[0] == 0 else ():
        part.add_module(name, model.get_submodule(name))
    part.blocks = _only(model.blocks, layers)
    numbers = [number for number, layer in enumerate(model.config.audio_inject_layers) if layer in layers]
    injector = nn.Module()
    for name in INJECTOR_LISTS:
        injector.add_module(name, _only(model.audio_injector.get_submodule(name), numbers))
    part.add_module("audio_injector", injector)
    if layers[-1] == model.config.num_layers - 1:
        part.add_module(HEAD, model.get_submodule(HEAD))
    return part


def _only(modules: nn.Module, kept: Sequence[int]) -> nn.ModuleList:
    """A list with the same numbers, of which only some are filled."""
    return nn.ModuleList(part if number in kept else nn.Identity() for number, part in enumerate(modules.children()))


def spread_layers(
    model: CausalWanS2V, layers: Sequence[range], devices: Sequence[torch.device]
) -> tuple[PlacedModel, ...]:
    """Move each range of layers to its device; the model's own modules move, nothing is copied."""
    places = zip(layers, devices, strict=True)
    return tuple(PlacedModel(share_of(model, part).to(device), device) for part, device in places)


def replicate(model: CausalWanS2V, devices: Sequence[torch.device]) -> tuple[PlacedModel, ...]:
    """The whole model on every device; where it is already, or on a device named before, without a copy."""
    at: dict[torch.device, CausalWanS2V] = {next(model.parameters()).device: model}
    for device in devices:
        if device not in at:
            at[device] = copy.deepcopy(model).to(device)
    return tuple(PlacedModel(at[device], device) for device in devices)


def drop_other_layers(tree: nn.Module, model: CausalWanS2V, layers: Sequence[int]) -> None:
    """Remove from a module tree with the original's names the weights that stages with these layers do not use.

    `model` is the transformer over that tree, from before.
    """
    for name in () if 0 in layers else EMBEDDINGS:
        setattr(tree, name, nn.Identity())
    if model.config.num_layers - 1 not in layers:
        setattr(tree, HEAD, nn.Identity())
    tree.add_module("blocks", _only(model.blocks, layers))
    numbers = [number for number, layer in enumerate(model.config.audio_inject_layers) if layer in layers]
    for name in INJECTOR_LISTS:
        lists = model.audio_injector.get_submodule(name)
        tree.get_submodule("audio_injector").add_module(name, _only(lists, numbers))
