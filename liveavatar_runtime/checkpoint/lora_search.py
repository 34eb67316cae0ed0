"""Finding Live Avatar's distillation LoRA: whether it is applied, and which files look like it."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import torch

from ..config import WAN_S2V_14B, AvatarConfig
from ..errors import CheckpointError, MemoryShortage
from ..reading import readable
from .header import read_header
from .lora import low_rank_modules, read_lora
from .lora_names import ModuleNames, Shapes, places
from .lora_scale import live_avatar_modules

SOURCE = "huggingface.co/Quark-Vision/Live-Avatar"
FILE = "liveavatar.safetensors"
# In every name of a layer of the audio injector, whoever wrote it: most LoRAs are told apart by that.
INJECTOR = "audio_injector"


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
    if not path.is_file():
        return False
    with suppress(CheckpointError, MemoryShortage):
        stored = {name: entry.shape for name, entry in read_header(path, complete=False).entries.items()}
        if not any(INJECTOR in name for name in stored):
            return False
        with readable(path, "a LoRA"):
            lora = read_lora({name: torch.empty(shape, device="meta") for name, shape in stored.items()}, path=path)
            where = places(lora.modules, ModuleNames(shapes), path)
            return low_rank_modules(lora, where, shapes) == live_avatar_modules(shapes)
    return False
