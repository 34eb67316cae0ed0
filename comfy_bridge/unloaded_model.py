"""What Load Avatar Model would load, told from files' headers: for plans before a run."""

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import comfy.model_management
import torch

from liveavatar_runtime.config import WAN_S2V_14B, AvatarConfig
from liveavatar_runtime.devices import AUTO
from liveavatar_runtime.errors import CheckpointError

from .core_model import PLAIN
from .folders import bundle_folders, diffusion_model_path
from .memory import own_device
from .model_loading import BUNDLE_MARK, PRECISIONS

if TYPE_CHECKING:
    from liveavatar_runtime.checkpoint.safetensors_io import Checkpoint
    from liveavatar_runtime.vae.config import VaeConfig


@dataclass(frozen=True)
class UnloadedModel:
    """Sizes of a transformer, bytes of its weights as they will be held, the dtype that it will compute in, the VAE
    beside it, and the only (width, height) that it knows, if there is one. `name` is empty where nobody chose one."""

    name: str
    config: AvatarConfig
    stored_bytes: int
    dtype: torch.dtype
    vae: "VaeConfig"
    made_for: tuple[int, int] | None = None


def assumed_model() -> UnloadedModel:
    """The 14B model in bf16, where the model is not known."""
    from liveavatar_runtime.planning.workload import Workload
    from liveavatar_runtime.sampling.plan import ClipPlan
    from liveavatar_runtime.vae.config import WAN_2_1

    work = Workload(WAN_S2V_14B, ClipPlan())
    return UnloadedModel("", WAN_S2V_14B, work.weights(work.layers), torch.bfloat16, WAN_2_1)


def unloaded_model(name: str, precision: str = AUTO) -> UnloadedModel:
    """Of a file or a bundle by its name in the list; `assumed_model` for one that is not there, as in a template whose
    files are still to be downloaded. Raises CheckpointError for one that is no Live Avatar model."""
    from liveavatar_runtime.checkpoint.bundle import find_bundle

    if not name.endswith(BUNDLE_MARK):
        path = None
        with suppress(CheckpointError):
            path = diffusion_model_path(name)
        return assumed_model() if path is None else replace(_of_files(_stamped(path), None, precision), name=name)
    folder = bundle_folders().get(name.removesuffix(BUNDLE_MARK))
    if folder is None:
        return assumed_model()
    bundle = find_bundle(folder)
    known = _of_files(_stamped(bundle.model), bundle.vae and _stamped(bundle.vae), precision)
    return replace(known, name=name, made_for=bundle.video_size)


Stamped = tuple[Path, int]


def _stamped(path: Path) -> Stamped:
    """A path with what tells that another file is there now."""
    return path, path.stat().st_mtime_ns


@lru_cache(8)
def _of_files(model: Stamped, vae: Stamped | None, precision: str) -> UnloadedModel:
    from liveavatar_runtime.checkpoint.detect import config_beside, detect_config
    from liveavatar_runtime.checkpoint.safetensors_io import open_checkpoint
    from liveavatar_runtime.vae.config import WAN_2_1, infer_config

    path, _ = model
    checkpoint = open_checkpoint(path)
    config = detect_config(checkpoint, config_beside(path))
    wanted = PRECISIONS.get(precision)
    # The other choices leave it to the file and the device.
    held, computes = _dtypes(checkpoint, config, wanted if isinstance(wanted, torch.dtype) else None)
    in_file = sum(file.stat().st_size for file in checkpoint.files)
    size = in_file if held is None else _parameters(config) * held.itemsize
    config_of_vae = WAN_2_1 if vae is None else infer_config(open_checkpoint(vae[0]).tensors)
    return UnloadedModel(path.name, config, size, computes, config_of_vae)


def _dtypes(
    checkpoint: "Checkpoint", config: AvatarConfig, wanted: torch.dtype | None
) -> tuple[torch.dtype | None, torch.dtype]:
    """What the weights are held in, None for quantised layers that stay as they are, and what is computed in: as core
    chooses them."""
    from liveavatar_runtime.checkpoint.quantised import quantised_layers
    from liveavatar_runtime.checkpoint.safetensors_io import GGUF_SUFFIX

    device, management = own_device(), comfy.model_management
    quantised = wanted not in PLAIN and bool(quantised_layers(checkpoint))
    gguf = checkpoint.path.suffix.lower() == GGUF_SUFFIX
    stored = None if quantised or gguf else _main_dtype(checkpoint)
    held = wanted or management.unet_dtype(device, _parameters(config), list(PLAIN), stored)
    computes = management.unet_manual_cast(held, device, [torch.float16, torch.bfloat16, torch.float32])
    return None if quantised else held, computes or held


def _main_dtype(checkpoint: "Checkpoint") -> torch.dtype | None:
    """Of most weights."""
    counts: dict[torch.dtype, int] = {}
    for name, dtype in checkpoint.dtypes.items():
        counts[dtype] = counts.get(dtype, 0) + int(torch.Size(checkpoint.shapes[name]).numel())
    return max(counts, key=lambda dtype: counts[dtype]) if counts else None


def _parameters(config: AvatarConfig) -> int:
    from liveavatar_runtime.planning.workload import Workload
    from liveavatar_runtime.sampling.plan import ClipPlan

    work = Workload(config, ClipPlan(), weight_bytes=1.0)
    return work.weights(work.layers)
