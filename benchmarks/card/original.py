"""The original program's own layer beside ours, in one process, over a full ring. Its folder is a checkout of it, which
is never part of this repository.

Packages of it are entered without running their `__init__`, which would import the whole program.
"""

import importlib
import os
import sys
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from liveavatar_runtime.config import AvatarConfig
from liveavatar_runtime.dit.kv_cache import CacheShape
from liveavatar_runtime.planning.sample_model import measure_parts
from liveavatar_runtime.planning.workload import Workload, cache_shape

from . import models
from .bench import Bench
from .packed import make_packages_importable

BF16 = torch.bfloat16
INNER = "liveavatar.models.wan"
PACKAGES = ("liveavatar", "liveavatar.models", INNER, f"{INNER}.wan_2_2", f"{INNER}.wan_2_2.modules")
PACKAGES += (f"{INNER}.wan_2_2.modules.s2v", f"{INNER}.wan_2_2.distributed")
NEEDED = ("diffusers", "einops")


def measure(bench: Bench) -> None:
    if bench.original is None:
        bench.record.skip("no folder was given with --original")
        return
    if bench.comfyui is not None:
        # What was packed beside ComfyUI may have what the original needs.
        make_packages_importable(bench.comfyui)
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        bench.record.skip(f"the original needs {', '.join(missing)}, which is not here; pack it with --wheels")
        return
    bench.forget()
    module, attention = load(bench.original, bench.on_card)
    config, plan = models.large_config(bench), models.plan_of(bench, models.main_size(bench))
    shape = cache_shape(config, plan)
    layer = make_layer(config, bench.device, module)
    inputs = make_inputs(bench.device, shape, config.dim)
    with torch.inference_mode(), torch.autocast(bench.device.type, dtype=BF16):
        theirs = bench.median_of(lambda: layer(inputs["x"], **{k: v for k, v in inputs.items() if k != "x"}))
    ours = measure_parts(Workload(config, plan, BF16, BF16.itemsize), bench.device).layer
    bench.record.row(
        "A layer, without the voice, over a full ring",
        tokens=shape.block_tokens,
        keys=shape.tokens,
        **{"ours, ms": 1e3 * ours, "the original's, ms": 1e3 * theirs, "times": theirs / ours},
        **{"the original's attention": attention, "compiled": "no, neither"},
    )


def load(folder: Path, on_card: bool) -> tuple[Any, str]:
    """The module of the original's model, and what its attention runs with.

    Raises FileNotFoundError when the folder has no such program.
    """
    if not (folder / "liveavatar" / "models" / "wan" / "causal_model_s2v.py").is_file():
        raise FileNotFoundError(f"{folder} has no liveavatar/models/wan/causal_model_s2v.py; give a checkout's root")
    os.environ["ENABLE_COMPILE"] = "false"
    for name in PACKAGES:
        package = types.ModuleType(name)
        package.__path__ = [str(folder / name.replace(".", "/"))]
        sys.modules[name] = package
    layers = importlib.import_module(f"{INNER}.wan_2_2.modules.model")
    module = importlib.import_module(f"{INNER}.causal_model_s2v")
    told = "its own"
    if find_spec("flash_attn") is None and find_spec("flash_attn_interface") is None:
        layers.__dict__["flash_attention"] = plain_attention
        told = "its own (cuDNN), that of the text with PyTorch's, as flash_attn is missing"
    if not on_card:
        module.__dict__["attention"] = plain_attention
        told = "PyTorch's"
    return module, told


def plain_attention(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    """PyTorch's over [B, tokens, heads, head_dim]; the original's options change nothing for full sequences."""
    q, k, v = (part.to(BF16).transpose(1, 2) for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def make_layer(config: AvatarConfig, device: torch.device, module: Any) -> Any:
    """The original's, with random weights in bf16."""
    with torch.device("meta"):
        layer = module.CausalWanS2VAttentionBlock(
            "t2v_cross_attn", config.dim, config.ffn_dim, config.num_heads, cross_attn_norm=True, eps=config.eps
        ).to(BF16)
    models.fill(layer, device)
    return layer.eval().requires_grad_(False)


def make_inputs(device: torch.device, shape: CacheShape, dim: int) -> dict[str, Any]:
    """As its model gives them to a layer when the ring is full: of a block at any time step."""
    frames = 3

    def made(*size: int, dtype: torch.dtype = BF16) -> Tensor:
        return torch.randn(size, device=device, dtype=dtype)

    def turns(tokens: int) -> Tensor:
        angles = torch.rand(1, tokens, shape.heads, shape.head_dim // 2, device=device, dtype=torch.float64)
        return torch.polar(torch.ones_like(angles), angles)

    heads = (shape.heads, shape.head_dim)
    cache = {
        "k": made(1, shape.ring_tokens, *heads),
        "v": made(1, shape.ring_tokens, *heads),
        "cond_k": made(1, shape.sink_tokens, *heads),
        "cond_v": made(1, shape.sink_tokens, *heads),
        "cond_end": torch.tensor([shape.sink_tokens]),
    }
    return {
        "x": made(1, shape.block_tokens, dim),
        "e": [made(1, frames, 6, 2, dim, dtype=torch.float32), torch.tensor(shape.block_tokens)],
        "seq_lens": torch.tensor([shape.block_tokens]),
        "grid_sizes": None,
        "freqs": turns(shape.block_tokens),
        "context": made(1, 512, dim),
        "context_lens": None,
        "block_mask": None,
        "frame_seqlen": torch.tensor(shape.block_tokens // frames),
        "kv_cache": cache,
        "crossattn_cache": None,
        "current_start": shape.ring_tokens,
        "freqs_cond": turns(shape.sink_tokens),
    }
