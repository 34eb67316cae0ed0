"""The weights of a checkpoint as the model has them: unpacked, in one dtype, in the architecture's shapes."""

from collections.abc import Collection, Iterator, Mapping
from itertools import accumulate
from operator import mul

import torch
from torch import Tensor

from ..errors import CheckpointError
from .gguf_io import GgufTensors
from .quantised import FP8, QuantisedLayer, is_quantisation_entry, quantised_layers, unpacked
from .safetensors_io import Checkpoint

PLAIN = (torch.float32, torch.bfloat16, torch.float16)
Shape = tuple[int, ...]


class PlainWeights(Mapping[str, Tensor]):
    """Weight name -> tensor without quantisation, made when it is asked for.

    `dtype` None keeps plain weights as stored and unpacks others to bf16. `shapes` are those of the architecture:
    some writers drop or fold axes. `kept` are quantised layers that are left out.
    Raises CheckpointError for formats other than fp8 and GGUF.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        dtype: torch.dtype | None = None,
        shapes: Mapping[str, Shape] | None = None,
        kept: Collection[str] = (),
    ) -> None:
        self.checkpoint, self._dtype = checkpoint, dtype
        layers = {name: layer for name, layer in quantised_layers(checkpoint).items() if name not in kept}
        _check_formats(checkpoint, layers)
        self._packed = {f"{name}.weight": layer for name, layer in layers.items()}
        skipped = {f"{name}.weight" for name in kept}
        stored = checkpoint.shapes
        names = [name for name in stored if not is_quantisation_entry(name) and name not in skipped]
        self.shapes = {name: (shapes or stored).get(name, stored[name]) for name in names}
        self._stored = checkpoint.dtypes

    @property
    def any_unpacked(self) -> bool:
        """Whether there are quantised weights among them."""
        return bool(self._packed) or isinstance(self.checkpoint.tensors, GgufTensors)

    def dtype_of(self, name: str) -> torch.dtype:
        stored = self._stored.get(name)
        if name in self._packed or stored not in PLAIN:
            return self._dtype or torch.bfloat16
        return self._dtype or stored

    def is_view(self, name: str, dtype: torch.dtype | None = None) -> bool:
        """Whether the tensor, in `dtype` or else its own, is a part of the mapped file, which takes no memory."""
        wanted = dtype or self.dtype_of(name)
        return self.checkpoint.mapped and name not in self._packed and self._stored[name] == wanted

    @property
    def size(self) -> int:
        """Bytes of all of them together, in memory."""
        return sum(torch.Size(shape).numel() * self.dtype_of(name).itemsize for name, shape in self.shapes.items())

    def __getitem__(self, name: str) -> Tensor:
        if not self.is_view(name):
            return self.read(name)
        mapped = self.checkpoint.tensors[name]
        # The tensor itself where possible: core notes things on those that it reads.
        return mapped if mapped.shape == self.shapes[name] else mapped.reshape(self.shapes[name])

    def read(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """As by index, but always in memory of its own, and in `dtype` if it is given."""
        shape, wanted = self.shapes[name], dtype or self.dtype_of(name)
        if name in self._packed:
            own = wanted if wanted in PLAIN else self.dtype_of(name)
            return unpacked(self.checkpoint, name, self._packed[name], own).reshape(shape).to(wanted)
        return self.checkpoint.read(name, wanted).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def is_folded(stored: Shape, wanted: Shape) -> bool:
    """Whether `stored` is `wanted` with axes of one value dropped or neighbouring axes joined.

    The values are in the same order then, so that a reshape gives the tensor back. Two axes that were swapped are not
    that.
    """
    return _cuts(stored) <= _cuts(wanted) and torch.Size(stored).numel() == torch.Size(wanted).numel()


def _cuts(shape: Shape) -> set[int]:
    """Numbers of values in the last axis, in the last two, ..."""
    return set(accumulate(reversed(shape), mul)) - {1}


def _check_formats(checkpoint: Checkpoint, layers: Mapping[str, QuantisedLayer]) -> None:
    others = sorted({layer.format for layer in layers.values()} - FP8.keys())
    if others:
        raise CheckpointError(
            f"{checkpoint.path} is quantised as {', '.join(others)}, which only ComfyUI's own loader reads. "
            "Load it in ComfyUI on one device, or use a bf16, fp16, fp8 or GGUF file."
        )
