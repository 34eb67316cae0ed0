"""The demo model on module trees that core loaded, and the latents that it samples there."""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from liveavatar_runtime.checkpoint.bundle import find_bundle
from liveavatar_runtime.config import AvatarConfig
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.sampling.conditions import Conditions
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import SamplingRequest

ROOT = Path(__file__).parents[2]
BUNDLE = find_bundle(ROOT / "demo" / "liveavatar-demo")
MODEL_FILE = BUNDLE.folder / "diffusion_pytorch_model.safetensors"
PLAN = ClipPlan(num_clip=2, infer_frames=12, width=64, height=64, keep_aspect=False)


class Features:
    def __init__(self, audio_dim: int, plan: ClipPlan = PLAN) -> None:
        generator = torch.Generator().manual_seed(3)
        self.values = torch.randn(1, 25, audio_dim, plan.frames, generator=generator)

    def frames(self, first: int, count: int) -> torch.Tensor:
        return self.values[..., first : first + count]


def latents(model: CausalWanS2V, dtype: torch.dtype = torch.float32, plan: ClipPlan = PLAN) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    height, width = plan.latent_size
    conditions = Conditions(
        text=torch.randn(20, model.config.text_dim, generator=generator),
        reference=torch.randn(16, 1, height, width, generator=generator),
        motion=torch.randn(16, 19, height, width, generator=generator),
        audio=Features(model.config.audio_dim, plan),
    )
    blocks = LocalExecutor(model, torch.device("cpu"), dtype).run(SamplingRequest(conditions, plan))
    return torch.cat([block.latents for block in blocks], dim=1)


def adopted(core_model: Any, patcher: Any) -> CausalWanS2V:
    import comfy.model_management

    comfy.model_management.load_models_gpu([patcher])
    avatar = core_model.adopt(patcher)
    config = AvatarConfig.from_dict(avatar.config.to_dict())
    return CausalWanS2V.adopt(patcher.get_model_object("diffusion_model"), config)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


def relative_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def header_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()
