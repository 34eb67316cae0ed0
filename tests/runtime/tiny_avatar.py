"""A random transformer of few layers, with conditions and a plan, for tests that compare executors."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from liveavatar_runtime.config import AvatarConfig
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.sampling.conditions import Conditions
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.script import Change, Script

CONFIG = AvatarConfig(
    dim=32,
    ffn_dim=64,
    num_heads=2,
    num_layers=5,
    audio_inject_layers=(0, 2, 4),
    audio_dim=8,
    text_dim=16,
    text_len=8,
    freq_dim=32,
)
PLAN = ClipPlan(num_clip=3, infer_frames=24, width=64, height=64, keep_aspect=False, relative_distance=None)


@dataclass(frozen=True)
class Noise:
    """Voice features by frame from a seed, [actors, layers, audio_dim, frames]."""

    config: AvatarConfig = CONFIG
    actors: int = 1

    def frames(self, first: int, count: int) -> Tensor:
        size = (self.actors, self.config.audio_layers, self.config.audio_dim, 1)
        seeds = (torch.Generator().manual_seed(first + number) for number in range(count))
        return torch.cat([torch.randn(size, generator=seed) for seed in seeds], dim=-1)


@dataclass(frozen=True)
class NoisePose:
    """Pose latents by block from a seed, float32 [16, 3, h, w]."""

    size: tuple[int, int] = PLAN.latent_size

    def latents(self, block: int) -> Tensor:
        return torch.randn((16, 3, *self.size), generator=torch.Generator().manual_seed(1000 + block))


def random_model(config: AvatarConfig = CONFIG) -> CausalWanS2V:
    generator = torch.Generator().manual_seed(3)
    model = CausalWanS2V(config)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = (0.5 / max(1, parameter[0].numel())) ** 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
    return model.eval().requires_grad_(False)


def random_conditions(config: AvatarConfig = CONFIG, plan: ClipPlan = PLAN, actors: int = 1) -> Conditions:
    generator = torch.Generator().manual_seed(4)
    (height, width), (rows, columns) = plan.latent_size, plan.grid

    def random(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    masks = torch.zeros(actors, 3, rows, columns)
    for actor, part in enumerate(masks.tensor_split(actors, dim=-1) if actors > 1 else ()):
        masks[actor, ..., actor * part.shape[-1] : (actor + 1) * part.shape[-1]] = 1
    return Conditions(
        text=random(5, config.text_dim),
        reference=random(16, 1, height, width),
        motion=random(16, 19, height, width),
        audio=Noise(config, actors),
        actor_masks=masks if actors > 1 else None,
    )


SCRIPT = Script(
    (
        Change(block=3, text=True),
        Change(block=5, seed=70, motion=0.5),
        Change(block=6, picture=True, motion=1.0),
        Change(block=8, text=True),
    )
)
"""Within clips and at their borders, with clips of two blocks."""
SCRIPTED = replace(PLAN, num_clip=6, infer_frames=24, window_blocks=2, script=SCRIPT)


def scripted_conditions(config: AvatarConfig = CONFIG, plan: ClipPlan = SCRIPTED, actors: int = 1) -> Conditions:
    """Those of `random_conditions` with what the script's changes begin."""
    generator = torch.Generator().manual_seed(5)
    texts = {c.block: torch.randn(3, config.text_dim, generator=generator) for c in plan.script.changes if c.text}
    size = (16, 1, *plan.latent_size)
    pictures = {c.block: torch.randn(size, generator=generator) for c in plan.script.changes if c.picture}
    return replace(random_conditions(config, plan, actors), texts=texts, pictures=pictures)
