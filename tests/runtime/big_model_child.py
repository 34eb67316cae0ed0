"""Loads a model and samples a little, in a process whose address space has room for a part of the file alone.

`python big_model_child.py FILE ROOM OUTPUT`: ROOM in bytes; the latents go to OUTPUT.
"""

import sys
from dataclasses import replace
from pathlib import Path

# Not when weights are first left on the disk: they take address space that is limited by then.
import accelerate.hooks  # noqa: F401
import core_latents
import torch
import torch._dynamo
from safetensors.torch import save_file

from liveavatar_runtime.checkpoint.offload import is_on_disk
from liveavatar_runtime.checkpoint.safetensors_io import open_checkpoint
from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.dit.model import CausalWanS2V


def limit_address_space(room: int) -> None:
    import resource

    import psutil

    size = psutil.Process().memory_info().vms + room
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def main(file: Path, room: int, output: Path) -> None:
    torch.set_num_threads(1)
    # What is imported or made at first use takes address space too.
    sampled(load_transformer(core_latents.BUNDLE.model, dtype=torch.bfloat16))
    limit_address_space(room)
    assert not open_checkpoint(file).mapped
    model = load_transformer(file)
    assert is_on_disk(model)
    save_file({"latents": sampled(model)}, output)


def sampled(model: CausalWanS2V) -> torch.Tensor:
    """A clip of one block."""
    plan = replace(core_latents.PLAN, num_clip=1, infer_frames=12)
    return core_latents.latents(model, torch.bfloat16, plan).contiguous()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
