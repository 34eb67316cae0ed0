"""What ComfyUI's core is handed of a weight file: layouts that it reads right, and all else unpacked.

Core reads quantised layers of its own layout alone. Of any other it takes the stored numbers for weights, with a line
in its log.
"""

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import comfy.model_management
import comfy.quant_ops
import torch
from torch import Tensor

from liveavatar_runtime.aligned import STAYS_ON_DISK
from liveavatar_runtime.checkpoint.quantised import (
    FP8,
    INT8,
    NOTE,
    NVFP4_SCALES,
    QuantisedLayer,
    quantised_layers,
    weight_scale,
)
from liveavatar_runtime.checkpoint.safetensors_io import Checkpoint
from liveavatar_runtime.checkpoint.weights import PlainWeights, Shape
from liveavatar_runtime.errors import CheckpointError, MemoryShortage
from liveavatar_runtime.progress import Progress
from liveavatar_runtime.system_memory import available_memory, stay_on_disk, too_little
from liveavatar_runtime.texts import size_text

EMBEDDINGS = ("trainable_cond_mask",)
"""Layers with two axes that are no products; core looks up rows of them in fewer formats."""
FULL_PRECISION = "full_precision_matrix_mult"
E5M2 = "float8_e5m2"

Tell = Callable[[str], None]
"""Called with a sentence for the user."""


@dataclass(frozen=True)
class CoreWeights:
    """The weights of a file for core: `kept` are the layers that stay quantised, `plain` all other weights."""

    checkpoint: Checkpoint
    kept: Mapping[str, QuantisedLayer]
    plain: PlainWeights

    @classmethod
    def of(cls, checkpoint: Checkpoint, shapes: Mapping[str, Shape]) -> "CoreWeights":
        """`shapes` of the architecture. Raises CheckpointError for layers that neither core nor the runtime reads."""
        layers = quantised_layers(checkpoint)
        kept = {name: layer for name, layer in layers.items() if _why_unread(checkpoint, name, layer) is None}
        others = {layer.format for name, layer in layers.items() if name not in kept}
        unreadable = sorted(others - FP8.keys())
        if unreadable:
            names = [name for name, layer in layers.items() if layer.format in unreadable and name not in kept]
            raise CheckpointError(
                f"{checkpoint.path}: {names[0]} (and {len(names) - 1} more) is {', '.join(unreadable)}, which this "
                "ComfyUI does not compute with there. Update ComfyUI, or use a bf16, fp16, fp8 or GGUF file."
            )
        return cls(checkpoint, kept, PlainWeights(checkpoint, shapes=shapes, kept=kept))

    @property
    def unpacked(self) -> list[str]:
        """Quantised layers that core does not read and that are unpacked for it."""
        return [name for name in quantised_layers(self.checkpoint) if name not in self.kept]

    def describe_unpacked(self) -> str:
        """Sentence for the user about them."""
        names, plain, layers = self.unpacked, self.plain, quantised_layers(self.checkpoint)
        count = sum(torch.Size(plain.shapes[f"{name}.weight"]).numel() for name in names)
        why = _why_unread(self.checkpoint, names[0], layers[names[0]])
        return (
            f"{self.checkpoint.path.name}: ComfyUI does not compute with {len(names)} fp8 layers of this file "
            f"({names[0]}: {why}). They are unpacked to bf16 and take {size_text(2 * count)} instead of "
            f"{size_text(count)}. Files such as wan2.2_s2v_14B_fp8_scaled.safetensors stay in fp8."
        )

    def placeholders(self) -> dict[str, Tensor]:
        """Tensors of the plain weights' shapes and dtypes that take no memory."""
        plain = self.plain
        return {name: torch.zeros((), dtype=plain.dtype_of(name)).expand(plain.shapes[name]) for name in plain}

    def in_core_layout(self) -> dict[str, Tensor]:
        """All tensors as core reads them: views of the file, except what had to be unpacked.

        Raises MemoryShortage when the file could not be mapped and memory has no room for it.
        """
        stored = [place.size for place in self.checkpoint.places.values()]
        if not self.checkpoint.mapped and sum(stored) > available_memory():
            raise MemoryShortage(too_little(self.checkpoint.path, f"Its {size_text(sum(stored))} cannot be mapped"))
        tensors = dict(self.plain)
        for name, layer in self.kept.items():
            tensors |= self._entries(name, layer)
        return tensors

    def _entries(self, name: str, layer: QuantisedLayer) -> dict[str, Tensor]:
        stored, weight = self.checkpoint.tensors, self.checkpoint.tensors[f"{name}.weight"]
        note: dict[str, object] = {**layer.note, "format": layer.format}
        if layer.format == E5M2:
            # No GPU multiplies two e5m2 matrices, and to round what is multiplied with the weights to e5m2 costs more
            # than the weights themselves lost.
            note.setdefault(FULL_PRECISION, True)
        entries = {f"{name}.weight": weight, f"{name}{NOTE}": _as_bytes(note)}
        if layer.format in FP8 or layer.format == INT8:
            entries[f"{name}.weight_scale"] = weight_scale(self.checkpoint, layer, len(weight), weight.ndim)
        elif layer.scale is not None:
            entries[f"{name}.weight_scale"] = stored[layer.scale]
        if layer.input_scale is not None:
            scale = self.checkpoint.read(layer.input_scale).float()
            # One in every layer says that the scale was never measured.
            if scale.numel() == 1 and float(scale) != 1:
                entries[f"{name}.input_scale"] = scale.reshape(())
        return entries | {name + end: stored[name + end] for end in NVFP4_SCALES if name + end in stored}


def _as_bytes(note: Mapping[str, object]) -> Tensor:
    return torch.tensor(list(json.dumps(note).encode()), dtype=torch.uint8)


def _why_unread(checkpoint: Checkpoint, name: str, layer: QuantisedLayer) -> str | None:
    """Why this ComfyUI does not compute with a layer as it is stored; None when it does."""
    if layer.format not in getattr(comfy.quant_ops, "QUANT_ALGOS", {}):
        return f"this ComfyUI is too old for {layer.format}"
    if len(checkpoint.shapes[f"{name}.weight"]) != 2:
        return "no linear layer"
    # A scale for each row is multiplied in by some of core's kernels and ignored by others.
    if layer.format in FP8 and torch.Size(checkpoint.shapes[str(layer.scale)]).numel() > 1:
        return "a scale for each row"
    if name in EMBEDDINGS and layer.format not in (*FP8, INT8):
        return "no linear layer"
    return None


@contextmanager
def empty_weights() -> Iterator[None]:
    """Core builds models in here without memory for their weights, where it would keep those in system memory."""
    if not comfy.model_management.is_device_cpu(comfy.model_management.unet_offload_device()):
        yield
        return
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False), warnings.catch_warnings():
        # Core copies the placeholders into the empty weights.
        warnings.filterwarnings("ignore", message=".*which is a no-op")
        yield


def fill_weights(
    tree: torch.nn.Module, weights: PlainWeights, may_retry: bool, progress: Progress | None, tell: Tell | None
) -> bool:
    """Put the weights into core's modules one by one: never more than one of them is in memory twice. `progress` is
    called with tensors done and tensors in all.

    Where they do not fit into memory, they become views of the mapped file, as far as they have its dtype. False when
    that is not enough and the caller may retry with the file's own dtype; MemoryShortage when it may not.
    """
    parameters = dict(tree.named_parameters())
    views = {name for name, parameter in parameters.items() if weights.is_view(name, parameter.dtype)}
    room = available_memory()
    total = _bytes(parameters.values())
    own = _bytes(parameter for name, parameter in parameters.items() if name not in views)
    path = weights.checkpoint.path
    if total <= room or next(iter(parameters.values())).device.type not in ("cpu", "meta"):
        views = set()
    elif own > room and may_retry and weights.checkpoint.mapped and not weights.any_unpacked:
        return False
    elif own > room:
        most = max(parameters.values(), key=torch.numel)
        raise MemoryShortage(
            too_little(
                path,
                f"In {str(most.dtype).removeprefix('torch.')} its weights take {size_text(total)}, with precision "
                f"fp8_e4m3fn {size_text(sum(map(torch.numel, parameters.values())))}",
            )
        )
    elif tell:
        tell(stay_on_disk(path, total))
    for done, (name, parameter) in enumerate(parameters.items(), start=1):
        _put(tree, name, parameter, weights, name in views)
        if name in views:
            setattr(tree.get_parameter(name), STAYS_ON_DISK, True)
        if progress:
            progress(done, len(parameters))
    return True


def _put(tree: torch.nn.Module, name: str, parameter: torch.nn.Parameter, weights: PlainWeights, view: bool) -> None:
    value = weights[name] if view else weights.read(name, parameter.dtype)
    if parameter.is_meta:
        from accelerate.utils import set_module_tensor_to_device

        set_module_tensor_to_device(tree, name, "cpu", value=value)
    else:
        parameter.data = value.to(parameter.device)


def _bytes(parameters: Iterable[torch.nn.Parameter]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)
