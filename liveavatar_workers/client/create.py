"""From the executor and devices that a user chose to workers on this machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from liveavatar_runtime.checkpoint.gguf_io import GgufTensors
from liveavatar_runtime.checkpoint.safetensors_io import Checkpoint
from liveavatar_runtime.config import AvatarConfig
from liveavatar_runtime.errors import InputError
from liveavatar_runtime.executors.table import check_devices, check_groups

from ..precisions import PRECISIONS
from .groups import LocalWorkers

OF_LAYERS = "blocks.0.modulation"
"""A weight whose dtype stands for all of the layers'."""


def dtype_in_workers(checkpoint: Checkpoint, precision: str, device: torch.device) -> torch.dtype:
    """What workers on `device` hold a model's weights in and compute in, for one of `PRECISIONS`."""
    chosen = PRECISIONS.get(precision)
    if chosen is not None or device.type == "cpu":
        return chosen or torch.float32
    stored = None if isinstance(checkpoint.tensors, GgufTensors) else checkpoint.tensors[OF_LAYERS].dtype
    # Full precision has no use on a GPU, and packed weights are unpacked to bf16.
    return stored if stored in (torch.float16, torch.bfloat16) else torch.bfloat16


@dataclass(frozen=True)
class ModelFiles:
    """A model's file or folder, LoRAs of (path, strength), the folder of `KnownHashes`, and whether files may be
    mapped."""

    path: Path
    loras: Sequence[tuple[Path, float]] = ()
    hashes: Path | None = None
    mapped: bool = True


def local_workers(
    executor: str, devices: Sequence[torch.device], config: AvatarConfig, files: ModelFiles, precision: str
) -> LocalWorkers:
    """A group on this machine that loads the model when it is first used.

    Raises InputError for what cannot work.
    """
    check_groups(executor)
    check_devices(executor, devices, config)
    if precision not in PRECISIONS:
        raise InputError(
            f"precision is {precision}; with executor {executor} it must be one of {', '.join(PRECISIONS)}, "
            "because its workers load the file themselves"
        )
    names = ",".join(map(str, devices))
    arguments = [
        "--model",
        str(files.path.resolve()),
        "--executor",
        executor,
        "--devices",
        names,
        "--precision",
        precision,
    ]
    for lora, strength in files.loras:
        arguments += ["--lora", str(lora.resolve()), str(strength)]
    if files.hashes is not None:
        arguments += ["--hashes", str(files.hashes.resolve())]
    if not files.mapped:
        arguments.append("--disable-mmap")
    return LocalWorkers(len(devices), arguments)
