"""ComfyUI's own modules beside ours, in one process: ours over its module tree, as the nodes run it, in bf16 and in
fp8, and its own forward pass.

The folder has `ComfyUI/` (or is one) and the packages that the machine lacks; `pack.py` makes it.
"""

import statistics
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from liveavatar_runtime.config import AvatarConfig
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.sampling.evaluator import PlacedModel

from . import models, rates
from .bench import Bench, OutOfMemory
from .fast import EVALUATION_TABLE, blocks_for
from .fits import chosen_placement
from .packed import comfyui_folder, make_packages_importable
from .running import steady

BF16, FP8 = torch.bfloat16, torch.float8_e4m3fn
QUANTISED = '{"format": "float8_e4m3fn"}'
QUANTISED_PARTS = ("blocks.", "audio_injector.")
"""Where published fp8 files keep fp8."""


def make_importable(given: Path) -> None:
    make_packages_importable(given)
    sys.path.append(str(comfyui_folder(given)))
    from comfy.cli_args import args  # pyright: ignore[reportMissingImports]

    # It looks for a card when it is imported.
    args.cpu = not torch.cuda.is_available()


def sizes_of(config: AvatarConfig) -> dict[str, Any]:
    """Arguments of ComfyUI's WanModel_S2V."""
    same = ("dim", "ffn_dim", "num_heads", "num_layers", "in_dim", "out_dim", "text_dim", "text_len", "freq_dim", "eps")
    more = ("audio_dim", "num_audio_token", "cond_dim")
    sizes = {name: getattr(config, name) for name in (*same, *more)}
    return {**sizes, "audio_inject_layers": list(config.audio_inject_layers)}


def make_tree(bench: Bench, quantised: bool) -> Any:
    """ComfyUI's model with random weights, made on the device."""
    import comfy.ops  # pyright: ignore[reportMissingImports]
    from comfy.ldm.wan.model import WanModel_S2V  # pyright: ignore[reportMissingImports]

    operations = comfy.ops.mixed_precision_ops({}, BF16) if quantised else comfy.ops.disable_weight_init
    sizes = sizes_of(models.large_config(bench))
    tree = WanModel_S2V(**sizes, device=bench.device, dtype=BF16, operations=operations)
    generator = torch.Generator(bench.device).manual_seed(0)
    for name, module in tree.named_modules():
        if quantised and isinstance(module, operations.Linear):
            _load(module, name, bench.device, generator)
        else:
            for own, parameter in module.named_parameters(recurse=False):
                models.randomise(own, parameter.data, generator)
    return tree.eval().requires_grad_(False)


def _load(linear: nn.Module, name: str, device: torch.device, generator: torch.Generator) -> None:
    """A Linear that has no weight before it is loaded; in fp8 where published files have it."""
    rows, columns = int(getattr(linear, "out_features")), int(getattr(linear, "in_features"))  # noqa: B009
    weight = torch.empty(rows, columns, device=device, dtype=BF16).normal_(0.0, 1.0, generator=generator)
    state: dict[str, Tensor] = {"bias": torch.zeros(rows, device=device, dtype=BF16)}
    if name.startswith(QUANTISED_PARTS):
        scale = columns**-0.5 / 64
        state["weight"] = (weight * 64).clamp(-models.FP8_MAX, models.FP8_MAX).to(FP8)
        state["weight_scale"] = torch.full((), scale, device=device, dtype=torch.float32)
        state["comfy_quant"] = torch.tensor(list(QUANTISED.encode()), dtype=torch.uint8)
    else:
        state["weight"] = weight * columns**-0.5
    linear.load_state_dict(state)


def measure(bench: Bench, quantised: bool) -> None:
    if bench.comfyui is None:
        bench.record.skip("no folder was given with --comfyui")
        return
    make_importable(bench.comfyui)
    bench.forget()
    tree = make_tree(bench, quantised)
    for batched in (False, True):
        _ours_over(bench, tree, quantised, batched)
    if not quantised:
        _its_own(bench, tree)


def _ours_over(bench: Bench, tree: Any, quantised: bool, batched: bool) -> None:
    """Our evaluation over its modules."""
    config, size = models.large_config(bench), models.main_size(bench)
    plan = models.plan_of(bench, size)
    model = CausalWanS2V.adopt(tree, config)
    work = Workload(config, plan, BF16, 1.0 if quantised else BF16.itemsize)
    placement = chosen_placement(bench, work, batched)
    executor = LocalExecutor.placed(PlacedModel(model, bench.device), BF16, placement)
    run = partial(
        steady, bench, executor, models.random_conditions(config, plan), plan, blocks_for(bench, plan.steps, batched)
    )
    found = bench.attempt(run)
    if isinstance(found, OutOfMemory):
        bench.record.skip(f"ours over ComfyUI's modules: {found.message}")
        return
    each = [s / plan.steps for s in found.times.blocks] if batched else found.times.evaluations
    seconds = statistics.median(each)
    flops = Workload(config, plan).evaluation_flops(range(config.num_layers))
    bench.record.row(
        EVALUATION_TABLE,
        size=f"{size[0]}x{size[1]}",
        weights=f"ours over ComfyUI's modules, {'fp8' if quantised else 'bf16'}",
        schedule="batched" if batched else "sequential",
        compiled="no",
        caches=str(placement),
        ms=1e3 * seconds,
        **{"slowest, ms": 1e3 * max(each), "of": len(each)},
        **{"TFLOP/s": flops / seconds / 1e12, "share of matmul": flops / seconds / rates.matmul_rate(bench, BF16)},
        **{"block, ms": 1e3 * statistics.median(found.times.blocks)},
        finite="yes" if found.finite else "no",
    )


def _its_own(bench: Bench, tree: Any) -> None:
    """Its forward pass over one block with picture and motion, all of them in one sequence and without a cache."""
    for frames in (3, 12):
        seconds, tokens = _forward_seconds(bench, tree, frames)
        bench.record.row(
            "ComfyUI's own forward pass, bf16",
            **{"latent frames": frames, "tokens": tokens, "ms": 1e3 * seconds},
        )


def _forward_seconds(bench: Bench, tree: Any, frames: int) -> tuple[float, int]:
    config, plan = models.large_config(bench), models.plan_of(bench, models.main_size(bench))
    height, width = plan.latent_size

    def made(*shape: int) -> Tensor:
        return torch.randn(shape, device=bench.device, dtype=BF16)

    inputs = {
        "timestep": torch.tensor([500.0], device=bench.device),
        "context": made(1, config.text_len, config.text_dim),
        "audio_embed": made(1, config.audio_layers, config.audio_dim, 4 * frames),
        "reference_latent": made(1, 16, 1, height, width),
        "reference_motion": made(1, 16, config.motion_frames[1], height, width),
    }
    x = made(1, 16, frames, height, width)
    with torch.inference_mode():
        seconds = bench.median_of(lambda: tree(x, **inputs), rounds=5, warm_ups=2)
    return seconds, sum(_tokens(config, plan.grid, frames))


def _tokens(config: AvatarConfig, grid: tuple[int, int], frames: int) -> Iterator[int]:
    from liveavatar_runtime.dit.frame_packer import packed_token_count

    yield (frames + 1) * grid[0] * grid[1]
    yield packed_token_count(grid)
