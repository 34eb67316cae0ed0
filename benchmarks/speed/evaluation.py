"""One evaluation over a full ring, beside ComfyUI's own forward pass over a block, picture and motion with the same
weights: it does the work of one step of a block too, without a cache and without what came before."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.traffic import BLOCK
from liveavatar_runtime.checkpoint.detect import config_beside, detect_config
from liveavatar_runtime.checkpoint.safetensors_io import open_checkpoint
from liveavatar_runtime.config import WAN_S2V_14B, AvatarConfig
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.dit.placement import ON_DEVICE
from liveavatar_runtime.sampling.conditions import Conditions
from liveavatar_runtime.sampling.evaluator import Evaluator, PlacedModel, cache_maker
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import SamplingRequest

from .paired import paired
from .peers import comfyui_transformer
from .setup import Row, Setup

DEMO = Path(__file__).parents[2] / "demo" / "liveavatar-demo" / "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Size:
    """A model's sizes and a video's: width, height."""

    name: str
    config: AvatarConfig
    video: tuple[int, int]
    dtype: torch.dtype
    pairs: int


def sizes() -> list[Size]:
    demo = detect_config(open_checkpoint(DEMO), config_beside(DEMO))
    mid = AvatarConfig(dim=1024, ffn_dim=4096, num_heads=8, num_layers=16, audio_inject_layers=(0, 4, 8, 12))
    wide = replace(WAN_S2V_14B, num_layers=2, audio_inject_layers=(0,))
    return [
        Size("demo, float32", demo, (64, 64), torch.float32, 15),
        Size("340M, float32", mid, (128, 128), torch.float32, 5),
        Size("340M, bfloat16", mid, (128, 128), torch.bfloat16, 5),
        Size("2 layers of the 14B model, bfloat16", wide, (128, 128), torch.bfloat16, 5),
    ]


@dataclass(frozen=True)
class Voice:
    """Random features."""

    features: Tensor

    def frames(self, first: int, count: int) -> Tensor:
        return self.features[..., :count]


def rows(setup: Setup) -> Iterator[Row]:
    if setup.comfyui is None:
        yield Row.skipped("evaluation", "ComfyUI's modules: no folder was given with --comfyui")
        return
    for size in sizes():
        torch.manual_seed(0)
        model = CausalWanS2V(size.config, dtype=size.dtype, device=setup.device)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
        model.eval().requires_grad_(False)
        theirs = comfyui_transformer(size.config, model.state_dict(), size.dtype)
        ours = _evaluation(model, size, setup)
        result = paired(ours, _forward(theirs, size, setup), setup.device, setup.few(size.pairs))
        yield Row("evaluation", f"{size.name}, {size.video[0]}x{size.video[1]}", "ComfyUI", result.as_row())


@torch.no_grad()
def _evaluation(model: CausalWanS2V, size: Size, setup: Setup):
    """What evaluates step 0 of the next block each time; voices are heard before, as they are once for all steps."""
    config, plan = size.config, ClipPlan(num_clip=100, width=size.video[0], height=size.video[1], keep_aspect=False)
    height, width = plan.latent_size

    def made(*shape: int) -> Tensor:
        return torch.randn(shape, device=setup.device)

    conditions = Conditions(
        text=made(128, config.text_dim),
        reference=made(16, 1, height, width),
        motion=made(16, config.motion_frames[1], height, width),
        audio=Voice(made(1, config.audio_layers, config.audio_dim, 12)),
    )
    request = SamplingRequest(conditions, plan)
    evaluator = Evaluator(PlacedModel(model, setup.device), request, size.dtype, cache_maker(ON_DEVICE, in_turn=True))
    evaluator.condition(evaluator.embed_conditions())
    evaluator.fill_sink(0, evaluator.embed_sink(conditions.reference))
    voice, latents, block = evaluator.embed_voice(0), [made(16, 3, height, width)], -1

    @torch.no_grad()
    def evaluate() -> None:
        nonlocal block
        block += 1
        evaluator.hear(block, voice)
        row = evaluator.rows([(block, 0)])
        evaluator.velocities(evaluator.run_layers(evaluator.embed(latents, [block]), row), row)
        evaluator.leave(block)

    for _ in range(BLOCK):
        evaluate()
    return evaluate


def _forward(model: torch.nn.Module, size: Size, setup: Setup):
    config, plan = size.config, ClipPlan(width=size.video[0], height=size.video[1], keep_aspect=False)
    height, width = plan.latent_size

    def made(*shape: int) -> Tensor:
        return torch.randn(shape, device=setup.device, dtype=size.dtype)

    given = {
        "timestep": torch.tensor([500.0], device=setup.device),
        "context": made(1, config.text_len, config.text_dim),
        "audio_embed": made(1, config.audio_layers, config.audio_dim, 12),
        "reference_latent": made(1, 16, 1, height, width),
        "reference_motion": made(1, 16, config.motion_frames[1], height, width),
    }
    x = made(1, 16, 3, height, width)

    @torch.no_grad()
    def forward() -> None:
        model(x, **given)

    return forward
