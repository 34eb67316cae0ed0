"""What a loaded model computes with, as a short content hash, cheap also for 28 GB of weights."""

from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from ..liveavatar_runtime.sampling.fingerprint import Fingerprint
from .types import AvatarModel

SAMPLES = 256
"""Numbers of each tensor that are looked at, spread over all of it; training changes nearly every weight."""

_BY_PATCHER: "WeakKeyDictionary[Any, tuple[Any, str]]" = WeakKeyDictionary()


def fingerprint_of(model: AvatarModel) -> str | None:
    """Of the weights before patching, the patches (LoRAs with their strengths), and the precision.

    None when nobody here knows the weights, as with workers on other machines.
    """
    patcher = model.patcher
    if patcher is None:
        return model.key or None
    known = _BY_PATCHER.get(patcher)
    # Adding a patch to a ModelPatcher gives it another UUID.
    if known is None or known[0] != patcher.patches_uuid:
        weights = Fingerprint()
        for name, tensor in original_weights(patcher):
            weights.add(name, [str(tensor.dtype), list(tensor.shape)]).add(name, sampled(tensor))
        for name in sorted(patcher.patches):
            for number, leaf in enumerate(leaves(patcher.patches[name])):
                weights.add(f"{name}.{number}", sampled(leaf) if isinstance(leaf, Tensor) else leaf)
        known = patcher.patches_uuid, weights.hexdigest()
        _BY_PATCHER[patcher] = known
    return Fingerprint().add("weights", known[1]).add("dtype", str(model.dtype)).hexdigest()


def original_weights(patcher: Any) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by name; of those that are patched on the device now, what was there before."""
    tensors = {**dict(patcher.model.named_parameters()), **dict(patcher.model.named_buffers())}
    for name in sorted(tensors):
        kept = patcher.backup.get(name)
        yield name, tensors[name] if kept is None else kept.weight


def sampled(tensor: Tensor) -> Tensor:
    """Numbers spread over a tensor, on the CPU; of a quantised one those that are stored."""
    stored = getattr(tensor, "_qdata", tensor).detach().as_subclass(Tensor).reshape(-1)
    step = max(1, stored.numel() // SAMPLES)
    return stored[::step].cpu()


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
