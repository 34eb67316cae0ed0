"""Memory that sampling needs beside the weights, predicted from the plan."""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ..config import AvatarConfig
from ..dit.kv_cache import CacheShape
from ..errors import MachineError
from .duration import LATENT_FRAMES_PER_BLOCK

if TYPE_CHECKING:
    from ..sampling.plan import ClipPlan
    from ..vae.config import VaeConfig


def cache_bytes(config: AvatarConfig, plan: "ClipPlan", dtype: torch.dtype) -> int:
    """Size of the key/value caches of all layers and steps."""
    shape = CacheShape.of(config, plan.grid, plan.steps, plan.window_blocks, LATENT_FRAMES_PER_BLOCK)
    return shape.bytes(config.num_layers, dtype.itemsize)


def ring_bytes(config: AvatarConfig, plan: "ClipPlan", dtype: torch.dtype) -> int:
    """Size of the state that sampling can be continued from (`LatentBlock.rings`), at most."""
    shape = CacheShape.of(config, plan.grid, plan.steps, plan.window_blocks, LATENT_FRAMES_PER_BLOCK)
    return shape.ring_bytes(config.num_layers, dtype.itemsize)


def activation_bytes(config: AvatarConfig, plan: "ClipPlan", dtype: torch.dtype) -> int:
    """Peak of one evaluation's intermediate tensors.

    The widest moment is the FFN: its hidden layer before and after the activation, beside the residual and the
    modulated input in float32 and in the model's dtype.
    """
    rows, columns = plan.grid
    tokens = LATENT_FRAMES_PER_BLOCK * rows * columns
    return tokens * (2 * config.ffn_dim * dtype.itemsize + 3 * config.dim * 4 + 2 * config.dim * dtype.itemsize)


def text_bytes(config: AvatarConfig, dtype: torch.dtype) -> int:
    """Keys and values of the prompt for every layer."""
    return 2 * config.num_layers * config.text_len * config.dim * dtype.itemsize


def working_bytes(config: AvatarConfig, plan: "ClipPlan", dtype: torch.dtype) -> int:
    """All of it: caches, prompt, activations."""
    return cache_bytes(config, plan, dtype) + text_bytes(config, dtype) + activation_bytes(config, plan, dtype)


def decode_bytes(vae: "VaeConfig", plan: "ClipPlan", dtype: torch.dtype) -> int:
    """State of the streaming decoder and the peak of one block beside it.

    Both are about 25 * dim values for each pixel of a frame (1.14 GiB each for the released VAE at 688x368 in bf16).
    """
    return 2 * 25 * vae.dim * plan.width * plan.height * dtype.itemsize


# Sizes of the same kind from large to small, as (width, height).
SMALLER_SIZES = ((688, 368), (672, 352), (384, 256))


def check_fits(config: AvatarConfig, plan: "ClipPlan", dtype: torch.dtype, available: int) -> None:
    """Raises MachineError when sampling needs more than `available` bytes beside the weights; says what would help."""
    needed = working_bytes(config, plan, dtype)
    if needed <= available:
        return
    ways = [f"{name}: {_gib(working_bytes(config, changed, dtype))}" for name, changed in _cheaper(plan)]
    raise MachineError(
        f"sampling {plan.width}x{plan.height} in {plan.steps} steps needs {_gib(needed)} beside the weights, the "
        f"device has {_gib(available)}. What it would be with one change - {'; '.join(ways)}. See Clip Scheduler."
    )


def _cheaper(plan: "ClipPlan") -> list[tuple[str, "ClipPlan"]]:
    """Plans with one setting lowered, by the name of the change."""
    sizes = [size for size in SMALLER_SIZES if size[0] * size[1] < plan.width * plan.height]
    ways = [(f"{w}x{h}", replace(plan, width=w, height=h, keep_aspect=False)) for w, h in sizes]
    if plan.steps > 3:
        ways.append(("3 steps", replace(plan, steps=3)))
    if plan.window_blocks > 2:
        ways.append(("window_blocks 2", replace(plan, window_blocks=2)))
    return ways


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
