"""A GGUF loader as other packs have them: weights stay packed, each layer unpacks its own when it is used.

ComfyUI loads this file as a custom node of the test server; tests in this process import it once ComfyUI is there.
"""

from pathlib import Path
from typing import Any

import comfy.ops
import comfy.sd
import folder_paths
import gguf
import numpy as np
import torch
from torch import Tensor


class PackedTensor(torch.Tensor):
    """Stored bytes that show the shape of what they stand for."""

    kind: gguf.GGMLQuantizationType
    unpacked_shape: tuple[int, ...]

    @classmethod
    def of(cls, stored: Any) -> "PackedTensor":
        data = torch.from_numpy(np.array(stored.data))
        packed: Any = torch.Tensor._make_subclass(cls, data)
        packed.kind, packed.unpacked_shape = stored.tensor_type, tuple(int(n) for n in reversed(stored.shape))
        return packed

    @property
    def shape(self) -> torch.Size:
        return torch.Size(self.unpacked_shape)

    def unpack(self) -> Tensor:
        stored = self.as_subclass(torch.Tensor).numpy()
        return torch.from_numpy(gguf.dequantize(stored, self.kind)).reshape(self.unpacked_shape)


class Operations(comfy.ops.manual_cast):
    class Linear(comfy.ops.manual_cast.Linear):
        packed: PackedTensor | None = None

        def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
            weight = state_dict.get(f"{prefix}weight")
            if isinstance(weight, PackedTensor):
                self.packed = state_dict.pop(f"{prefix}weight")
                self.weight = torch.nn.Parameter(torch.empty(0), requires_grad=False)
            super()._load_from_state_dict(state_dict, prefix, *args)

        def forward(self, input: Tensor) -> Tensor:
            if self.packed is None:
                return super().forward(input)
            bias = None if self.bias is None else self.bias.to(input)
            return torch.nn.functional.linear(input, self.packed.unpack().to(input), bias)


PLAIN = (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16)


def load(path: Path) -> Any:
    """A MODEL, made by core with the operations above."""
    reader = gguf.GGUFReader(path)
    tensors: dict[str, Tensor] = {}
    for stored in reader.tensors:
        noted = reader.get_field(f"comfy.gguf.orig_shape.{stored.name}")
        if stored.tensor_type in PLAIN:
            tensor = torch.from_numpy(np.array(stored.data))
            tensors[stored.name] = tensor.reshape(noted.contents()) if noted else tensor
        else:
            tensors[stored.name] = PackedTensor.of(stored)
    config = reader.get_field("config")
    return comfy.sd.load_diffusion_model_state_dict(
        tensors,
        model_options={"custom_operations": Operations},
        metadata={"config": config.contents()} if config else {},
    )


class LoadPackedGGUF:
    CATEGORY = "test"
    FUNCTION = "execute"
    RETURN_TYPES = ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"file": ("STRING", {"default": ""})}}

    def execute(self, file: str) -> tuple[Any]:
        return (load(Path(folder_paths.models_dir) / "diffusion_models" / file),)


NODE_CLASS_MAPPINGS = {"TestLoadPackedGGUF": LoadPackedGGUF}
