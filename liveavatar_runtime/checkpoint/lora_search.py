"""Finding Live Avatar's distillation LoRA: whether it is applied, and which files look like it."""

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from ..config import WAN_S2V_14B, AvatarConfig
from ..errors import CheckpointError
from .lora import low_rank_modules, read_lora
from .lora_names import ModuleNames, Shapes, places
from .lora_scale import live_avatar_modules

SOURCE = "huggingface.co/Quark-Vision/Live-Avatar"
FILE = "liveavatar.safetensors"
LARGEST_HEADER = 16 * 2**20
# In every name of a layer of the audio injector, whoever wrote it: most LoRAs are told apart without parsing.
INJECTOR = b"audio_injector"


def is_published_size(config: AvatarConfig) -> bool:
    """Whether the published LoRA is for a model of these sizes."""
    return all(getattr(config, name) == getattr(WAN_S2V_14B, name) for name in ("dim", "ffn_dim", "num_layers"))


def distils(targets: Iterable[str], shapes: Shapes) -> bool:
    """Whether changes of these weights include all that Live Avatar's LoRA changes."""
    return {f"{module}.weight" for module in live_avatar_modules(shapes)} <= set(targets)


def look_alikes(files: Mapping[str, Path], shapes: Shapes) -> list[str]:
    """The names of the safetensors files that change exactly the modules of Live Avatar's LoRA in a model of `shapes`.

    Only their headers are read; files that cannot be read look like nothing.
    """
    return [name for name, path in files.items() if path.suffix == ".safetensors" and _looks_alike(path, shapes)]


def _looks_alike(path: Path, shapes: Shapes) -> bool:
    header = _header(path)
    if INJECTOR not in header:
        return False
    try:
        entries = json.loads(header)
        stored = {name: entry["shape"] for name, entry in entries.items() if name != "__metadata__"}
        lora = read_lora({name: torch.empty(shape, device="meta") for name, shape in stored.items()}, path=path)
        where = places(lora.modules, ModuleNames(shapes), path)
    except (CheckpointError, ValueError, KeyError, TypeError, RuntimeError):
        return False
    return low_rank_modules(lora, where, shapes) == live_avatar_modules(shapes)


def _header(path: Path) -> bytes:
    """The header's JSON; nothing for what is no safetensors file."""
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        return file.read(length) if 0 < length <= LARGEST_HEADER else b""
