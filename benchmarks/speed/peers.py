"""The programs that the pack is compared with: ComfyUI's own modules and the original's. Neither is part of this
repository; folders of them are given on the command line."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.card.comfyui import sizes_of
from liveavatar_runtime.config import AvatarConfig
from liveavatar_runtime.vae import VaeConfig


def make_comfyui_importable(folder: Path) -> None:
    """Raises FileNotFoundError when there is no ComfyUI in it."""
    if not (folder / "comfy" / "ldm" / "wan" / "model.py").is_file():
        raise FileNotFoundError(f"{folder} has no comfy/ldm/wan/model.py; give the folder with ComfyUI's main.py")
    sys.path.append(str(folder))
    from comfy.options import enable_args_parsing  # pyright: ignore[reportMissingImports]

    enable_args_parsing(False)
    from comfy.cli_args import args  # pyright: ignore[reportMissingImports]

    # It looks for a card when it is imported.
    args.cpu = not torch.cuda.is_available()


def comfyui_transformer(config: AvatarConfig, weights: dict[str, torch.Tensor], dtype: torch.dtype) -> nn.Module:
    """ComfyUI's WanModel_S2V with these weights, whose names are the same."""
    import comfy.ops  # pyright: ignore[reportMissingImports]
    from comfy.ldm.wan.model import WanModel_S2V  # pyright: ignore[reportMissingImports]

    device = next(iter(weights.values())).device
    made = WanModel_S2V(**sizes_of(config), device=device, dtype=dtype, operations=comfy.ops.disable_weight_init)
    # Copied: it keeps the patches' embedding in float32, whatever the others are.
    made.load_state_dict(weights, strict=True)
    return made.eval().requires_grad_(False)


def comfyui_vae(config: VaeConfig, weights: dict[str, torch.Tensor]) -> Any:
    from comfy.ldm.wan.vae import WanVAE  # pyright: ignore[reportMissingImports]

    vae = WanVAE(
        dim=config.dim,
        z_dim=config.z_dim,
        dim_mult=list(config.dim_mult),
        num_res_blocks=config.num_res_blocks,
        temperal_downsample=list(config.temporal_downsample),
    )
    vae.load_state_dict(weights, strict=True)
    return vae.to(next(iter(weights.values()))).eval().requires_grad_(False)
