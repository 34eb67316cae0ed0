"""Memory that sampling needs beside the weights, predicted from the plan."""

from typing import TYPE_CHECKING

import torch

from ..config import AvatarConfig
from ..dit.frame_packer import packed_token_count
from ..dit.kv_cache import CacheShape
from .duration import LATENT_FRAMES_PER_BLOCK

if TYPE_CHECKING:
    from ..sampling.plan import ClipPlan
    from ..vae.config import VaeConfig


def cache_bytes(config: AvatarConfig, plan: "ClipPlan", dtype: torch.dtype) -> int:
    """Size of the key/value caches of all layers and steps."""
    rows, columns = plan.grid
    shape = CacheShape(
        steps=plan.steps,
        window_blocks=plan.window_blocks,
        block_tokens=LATENT_FRAMES_PER_BLOCK * rows * columns,
        reference_tokens=rows * columns,
        motion_tokens=packed_token_count(plan.grid),
        heads=config.num_heads,
        head_dim=config.head_dim,
    )
    return shape.bytes(config.num_layers, dtype.itemsize)


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
