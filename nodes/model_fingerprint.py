"""What decides the latents of a loaded model, for a video's key: its weights, and how it computes."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from liveavatar_runtime.parallel.weights_key import add_weight, sampled
from liveavatar_runtime.sampling.fingerprint import Fingerprint, Numerics

from .types import AvatarModel

if TYPE_CHECKING:
    from liveavatar_runtime.planning.memory import Placement

    from .attention_choice import ChosenAttention

MATRIX = 2
"""Dimensions of a layer's weight."""

_BY_PATCHER: "WeakKeyDictionary[Any, tuple[Any, str]]" = WeakKeyDictionary()


def weights_of(model: AvatarModel) -> str:
    """Of the files that a model was loaded from, wherever it was; of a connected MODEL its weights and patches."""
    return model.key or patcher_key(model.patcher)


def numerics_of(
    model: AvatarModel, attention: "ChosenAttention", placement: "Placement", patches: tuple[str, ...]
) -> Numerics:
    """How a model computes, the same for a model in this process and in workers if both do the same."""
    return Numerics(held_in(model), name_of(model.dtype), attention.kind, placement.kv_dtype, patches)


def held_in(model: AvatarModel) -> str:
    """The formats of the layers' weights. Workers hold them in what they compute in."""
    if model.patcher is None:
        return name_of(model.dtype)
    layers = model.patcher.get_model_object("diffusion_model").blocks
    return ", ".join(sorted({_format(weight) for weight in layers.parameters() if weight.ndim == MATRIX}))


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _format(weight: Tensor) -> str:
    """The dtype, or the class of a quantised weight."""
    stored = weight.data
    return name_of(stored.dtype) if type(stored) is Tensor else type(stored).__name__


def patcher_key(patcher: Any) -> str:
    """Over the weights before patching, and the patches (LoRAs with their strengths)."""
    known = _BY_PATCHER.get(patcher)
    # Adding a patch to a ModelPatcher gives it another UUID.
    if known is None or known[0] != patcher.patches_uuid:
        weights = Fingerprint()
        for name, tensor in original_weights(patcher):
            add_weight(weights, name, tensor)
        for name in sorted(patcher.patches):
            for number, leaf in enumerate(leaves(patcher.patches[name])):
                weights.add(f"{name}.{number}", sampled(leaf) if isinstance(leaf, Tensor) else leaf)
        known = patcher.patches_uuid, weights.hexdigest()
        _BY_PATCHER[patcher] = known
    return known[1]


def original_weights(patcher: Any) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by name; of those that are patched on the device now, what was there before."""
    tensors = {**dict(patcher.model.named_parameters()), **dict(patcher.model.named_buffers())}
    for name in sorted(tensors):
        kept = patcher.backup.get(name)
        yield name, tensors[name] if kept is None else kept.weight


def leaves(value: Any) -> Iterator[Any]:
    """Tensors, numbers and texts inside a patch, whatever it is made of."""
    if isinstance(value, (Tensor, str, int, float, bool, type(None))):
        yield value
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield str(key)
            yield from leaves(value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from leaves(item)
    elif hasattr(value, "weights"):
        # A LoRA of any kind, as ComfyUI keeps it.
        yield type(value).__name__
        yield from leaves(value.weights)
    else:
        yield type(value).__name__
