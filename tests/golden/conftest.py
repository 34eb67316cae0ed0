"""Golden tensors of the original implementation; LIVEAVATAR_GOLDEN points at another folder of the same format."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from liveavatar_runtime.config import AvatarConfig
from liveavatar_runtime.dit.model import CausalWanS2V

DEFAULT = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Golden:
    folder: Path

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        """Tensors of one file; bfloat16 storage is exactly representable and returned as float32."""
        loaded = load_file(self.folder / name)
        return {k: v.float() if v.dtype == torch.bfloat16 else v for k, v in loaded.items()}

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    @property
    def manifest(self) -> dict[str, Any]:
        return self.json("manifest.json")

    def about(self, name: str) -> dict[str, Any]:
        """The manifest's entry of one file."""
        return self.manifest["files"][name]

    @property
    def config(self) -> AvatarConfig:
        return AvatarConfig.from_dict(self.manifest["dit_config"])


@pytest.fixture(scope="session")
def golden() -> Golden:
    torch.set_num_threads(1)
    return Golden(Path(os.environ.get("LIVEAVATAR_GOLDEN", DEFAULT)))


@pytest.fixture(scope="session")
def golden_dit(golden: Golden) -> CausalWanS2V:
    """The tiny transformer whose outputs the golden files hold."""
    model = CausalWanS2V(golden.config)
    model.load_state_dict(golden.tensors("dit.safetensors"), strict=True)
    return model.eval().requires_grad_(False)
