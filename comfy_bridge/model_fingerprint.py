"""What decides the latents of a loaded model, for a video's key: its weights, and how it computes."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from liveavatar_runtime.checkpoint.content import InMemory, contents
from liveavatar_runtime.dtypes import dtype_name
from liveavatar_runtime.fingerprint import Fingerprint
from liveavatar_runtime.sampling.video_key import Numerics

from .avatar import AvatarModel
from .identity import identity

if TYPE_CHECKING:
    from liveavatar_runtime.dit.placement import Placement
    from liveavatar_runtime.progress import Progress

    from .attention_choice import ChosenAttention
    from .comfy_types import CoreModel, Patcher

MATRIX = 2
"""Dimensions of a layer's weight."""

PLACES, RUN = 8, 32
"""A sample of a tensor: so many places of it, and numbers at each."""
NOTES = ("tensor_type", "tensor_shape", "quant_state")
"""What other packs' loaders note on a weight that they keep packed (GGUF, bitsandbytes): how it is to be unpacked."""

_BY_MODEL: "WeakKeyDictionary[CoreModel, tuple[str, str]]" = WeakKeyDictionary()
_BY_PATCHER: "WeakKeyDictionary[Patcher, tuple[object, str, str]]" = WeakKeyDictionary()


def weights_of(model: AvatarModel, progress: "Progress | None" = None) -> str:
    """Of the files that a model was loaded from, wherever it was; of a connected MODEL its weights and patches, which
    may have to be read: `progress` is called with bytes done and bytes in all."""
    return model.key or patcher_key(model.patcher, progress)


def numerics_of(
    model: AvatarModel, attention: "ChosenAttention", placement: "Placement", patches: tuple[str, ...]
) -> Numerics:
    """How a model computes, the same for a model in this process and in workers if both do the same."""
    return Numerics(weight_formats(model), dtype_name(model.dtype), attention.kind, placement.kv_dtype, patches)


def weight_formats(model: AvatarModel) -> str:
    """The formats of the layers' weights. Workers hold them in what they compute in."""
    if model.loaded is None:
        return dtype_name(model.dtype)
    layers = model.patcher.get_model_object("diffusion_model").get_submodule("blocks")
    return ", ".join(sorted({_format(weight) for weight in layers.parameters() if weight.ndim == MATRIX}))


def _format(weight: Tensor) -> str:
    """The dtype, or the class of a quantised weight."""
    stored = weight.data
    return dtype_name(stored.dtype) if type(stored) is Tensor else type(stored).__name__


def patcher_key(patcher: "Patcher", progress: "Progress | None" = None) -> str:
    """Over all of the weights before patching, and of the patches (LoRAs with their strengths).

    Read once for each model, and for each set of patches, to which core gives another UUID whenever a node adds some.
    Weights that a node changes in place are noticed by a sample of each.
    """
    weights = _weights_key(patcher, progress)
    known = _BY_PATCHER.get(patcher)
    if known is None or known[0] != patcher.patches_uuid or known[1] != weights:
        parts = {
            f"{name}.{number}": leaf
            for name in patcher.patches
            for number, leaf in enumerate(leaves(patcher.patches[name]))
        }
        known = patcher.patches_uuid, weights, _digest({"weights": weights, **parts}, progress)
        _BY_PATCHER[patcher] = known
    return known[2]


def _weights_key(patcher: "Patcher", progress: "Progress | None") -> str:
    """Clones with other patches share a model and this."""
    parts = {name: part for weight, tensor in original_weights(patcher) for name, part in stored_parts(weight, tensor)}
    sample = Fingerprint()
    for name in sorted(parts):
        part = parts[name]
        sample.add(name, sampled(part) if isinstance(part, Tensor) else part)
    known = _BY_MODEL.get(patcher.model)
    if known is None or known[0] != sample.hexdigest():
        known = sample.hexdigest(), _digest(parts, progress)
        _BY_MODEL[patcher.model] = known
    return known[1]


def _digest(parts: Mapping[str, object], progress: "Progress | None") -> str:
    """Over tensors, of any device, and other values by name."""
    tensors = {name: InMemory(part) for name, part in parts.items() if isinstance(part, Tensor)}
    found = contents(tensors, progress)
    fingerprint = Fingerprint()
    for name in sorted(parts):
        fingerprint.add(name, found[name].digest if name in found else parts[name])
    return fingerprint.hexdigest()


def original_weights(patcher: "Patcher") -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by name; of those that are patched on the device now, what was there before."""
    tensors = {**dict(patcher.model.named_parameters()), **dict(patcher.model.named_buffers())}
    for name in sorted(tensors):
        kept = patcher.backup.get(name)
        yield name, tensors[name] if kept is None else kept.weight


def stored_parts(name: str, tensor: Tensor) -> Iterator[tuple[str, object]]:
    """A plain tensor, or all that a quantised one is stored as: tensors and what says how they are meant, by name."""
    value = tensor.detach()
    flatten = getattr(value, "__tensor_flatten__", None)
    if flatten is not None:
        inner, context = flatten()
        yield from ((f"{name}:{number}", part) for number, part in enumerate(identity(context)))
        for part in inner:
            yield from stored_parts(f"{name}.{part}", getattr(value, part))
        return
    yield name, value.as_subclass(Tensor)
    for note in NOTES:
        if hasattr(tensor, note):
            yield from ((f"{name}.{note}:{n}", part) for n, part in enumerate(identity(getattr(tensor, note))))


def sampled(tensor: Tensor) -> Tensor:
    """Some numbers of a tensor, from its beginning to its end, on the CPU. Training changes nearly every weight."""
    flat = tensor.reshape(-1)
    if flat.numel() <= PLACES * RUN:
        return flat.cpu()
    # Views, because a mapped file is to be read at these places only.
    starts = [place * (flat.numel() - RUN) // (PLACES - 1) for place in range(PLACES)]
    return torch.stack([flat[start : start + RUN].view(torch.uint8) for start in starts]).cpu()


@runtime_checkable
class Adapter(Protocol):
    """A LoRA of any kind, as ComfyUI keeps it."""

    weights: object


def leaves(value: object) -> Iterator[object]:
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
    elif isinstance(value, Adapter):
        yield type(value).__name__
        yield from leaves(value.weights)
    else:
        yield type(value).__name__
