"""LoRA files: reading their adapters in any of the usual namings, merging them into weights.

How strong an adapter is when the file does not say (no `alpha` tensors, no metadata, no adapter_config.json) depends on
which program wrote it, and the names tell that:

- PEFT names of the bare model (`[base_model.model.]<module>.lora_A[.default].weight`) are what Live Avatar's training
  saves. It trains with alpha = rank / 2 ("rank 128, alpha 64"), so the scale is 0.5.
- All other namings (`diffusion_model.`, `transformer.`, `lora_unet_`, `lora_down`/`lora_up`) come from programs
  whose convention is alpha = rank when alpha is not written, so the scale is 1.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .detect import describe_contents
from .safetensors_io import read_json, read_tensors

PEFT_PREFIX = "base_model.model."
OTHER_PREFIXES = ("diffusion_model.", "transformer.", "model.diffusion_model.")
KOHYA_PREFIX = "lora_unet_"
LIVE_AVATAR_ALPHA_PER_RANK = 0.5

# <module> . lora_A [. adapter name] [. weight]; down and up are the other naming of A and B.
FACTOR = re.compile(r"^(?P<module>.+)\.lora[_.](?P<factor>A|B|down|up)(?:\.(?!weight$)\w+)?(?:\.weight)?$")
METADATA_TABLES = ("lora_adapter_metadata", "lora_config")
MERGEABLE = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Adapter:
    """Low-rank change of one linear layer: weight += scale * up @ down; down [rank, in], up [out, rank]."""

    down: Tensor
    up: Tensor
    scale: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]


@dataclass(frozen=True)
class LoraFile:
    """Adapters by module name (`blocks.0.self_attn.q`; with `_` for `.` in kohya names) and names not understood."""

    adapters: dict[str, Adapter]
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class MergedLora:
    """New values of the touched weights, and how the adapters and the model fitted together."""

    tensors: dict[str, Tensor]
    matched: tuple[str, ...]
    unmatched: tuple[str, ...]

    def report(self) -> str:
        text = f"{len(self.matched)} LoRA modules merged"
        if not self.unmatched:
            return text
        more = ", ..." if len(self.unmatched) > 5 else ""
        return f"{text}, {len(self.unmatched)} left out ({', '.join(self.unmatched[:5])}{more})"


def open_lora(path: str | Path) -> LoraFile:
    """Adapters of a LoRA file; a PEFT `adapter_config.json` beside it supplies alpha when the file does not."""
    path = Path(path)
    tensors, metadata = read_tensors(path)
    beside = path.parent / "adapter_config.json"
    if beside.is_file():
        metadata = {"lora_config": json.dumps(read_json(beside)), **metadata}
    lora = read_adapters(tensors, metadata)
    if not lora.adapters:
        raise CheckpointError(
            f"{path} is not a LoRA: it looks like {describe_contents(tensors)}. "
            "Give liveavatar.safetensors or another LoRA of Wan2.2-S2V-14B; a full model belongs in the model input."
        )
    return lora


def read_adapters(
    lora: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, alpha: float | None = None
) -> LoraFile:
    """Adapters of a LoRA state dict.

    The scale of each is, in this order: `alpha` / rank when given; the module's own `.alpha` tensor / rank; the
    alpha (and `use_rslora`) of `metadata`; the default of the file's naming (see the module's description).
    """
    down: dict[str, Tensor] = {}
    up: dict[str, Tensor] = {}
    peft: set[str] = set()
    ignored = []
    for name, tensor in lora.items():
        match = FACTOR.match(name)
        if match and tensor.ndim == 2:
            side = down if match["factor"] in ("A", "down") else up
            side[match["module"]] = tensor
            peft |= {match["module"]} if match["factor"] in ("A", "B") else set()
        elif not name.endswith(".alpha"):
            ignored.append(name)
    complete = [name for name in down if name in up and down[name].shape[0] == up[name].shape[1]]
    ignored += sorted((down.keys() | up.keys()) - set(complete))
    adapters = {}
    for written in complete:
        rank = down[written].shape[0]
        scale = _scale(written, rank, lora.get(f"{written}.alpha"), metadata or {}, alpha, written in peft)
        adapters[_module_name(written)] = Adapter(down[written], up[written], scale)
    return LoraFile(adapters, tuple(ignored))


def merge_lora(
    state_dict: Mapping[str, Tensor],
    lora: Mapping[str, Tensor] | LoraFile,
    strength: float = 1.0,
    *,
    alpha: float | None = None,
    metadata: Mapping[str, str] | None = None,
    path: Path | str = "given",
) -> MergedLora:
    """weight + strength * scale * up @ down for every module the LoRA names; `state_dict` stays as it is.

    The sum is computed in float32 and rounded once to the weight's dtype. `alpha` and `metadata` as in
    `read_adapters`; `path` names the file in messages. Raises CheckpointError when nothing matches, and for weights
    that are already quantised.
    """
    lora = lora if isinstance(lora, LoraFile) else read_adapters(lora, metadata, alpha)
    fits, unmatched = fitting(lora, {name: tuple(tensor.shape) for name, tensor in state_dict.items()}, path)
    tensors: dict[str, Tensor] = {}
    for module, adapter in fits.items():
        name = f"{module}.weight"
        weight = state_dict[name]
        if weight.dtype not in MERGEABLE:
            raise CheckpointError(
                f"{name} is quantised ({str(weight.dtype).removeprefix('torch.')}); a LoRA can only be merged into "
                "bf16, fp16 or fp32 weights. Merge first and quantise then, or let ComfyUI's LoRA loader patch it."
            )
        change = adapter.up.float() @ adapter.down.float()
        tensors[name] = (weight.float() + (strength * adapter.scale) * change).to(weight.dtype)
    return MergedLora(tensors, tuple(fits), tuple(unmatched))


def fitting(
    lora: LoraFile, shapes: Mapping[str, tuple[int, ...]], path: Path | str = "given"
) -> tuple[dict[str, Adapter], list[str]]:
    """The adapters by the model's own module names, and what in the file fits no weight in name or shape.

    `shapes` are those of the model's weights. Raises CheckpointError, which names the file `path`, when nothing fits.
    """
    by_kohya_name = {_kohya(name.removesuffix(".weight")): name for name in shapes if name.endswith(".weight")}
    fits: dict[str, Adapter] = {}
    unmatched = list(lora.ignored)
    for module, adapter in lora.adapters.items():
        name = f"{module}.weight" if f"{module}.weight" in shapes else by_kohya_name.get(module, "")
        if shapes.get(name) == (adapter.up.shape[0], adapter.down.shape[1]):
            fits[name.removesuffix(".weight")] = adapter
        else:
            unmatched.append(module)
    if not fits:
        raise CheckpointError(_nothing_fits(lora, shapes, unmatched, path))
    return fits, unmatched


def comfy_lora(lora: LoraFile) -> dict[str, Tensor]:
    """The same adapters in the names ComfyUI's own LoRA loading understands, each with its alpha written out."""
    tensors = {}
    for module, adapter in lora.adapters.items():
        name = f"diffusion_model.{module}" if "." in module else f"{KOHYA_PREFIX}{module}"
        tensors[f"{name}.lora_down.weight"] = adapter.down
        tensors[f"{name}.lora_up.weight"] = adapter.up
        tensors[f"{name}.alpha"] = torch.tensor(adapter.scale * adapter.rank)
    return tensors


def _scale(
    written: str, rank: int, own: Tensor | None, metadata: Mapping[str, str], alpha: float | None, is_peft: bool
) -> float:
    if alpha is not None:
        return alpha / rank
    if own is not None:
        return float(own) / rank
    table = _adapter_table(metadata)
    if "lora_alpha" in table:
        return float(table["lora_alpha"]) / (math.sqrt(rank) if table.get("use_rslora") else rank)
    bare = not written.startswith((*OTHER_PREFIXES, KOHYA_PREFIX))
    return LIVE_AVATAR_ALPHA_PER_RANK if is_peft and bare else 1.0


def _adapter_table(metadata: Mapping[str, str]) -> dict[str, Any]:
    """PEFT's configuration from a safetensors header, its keys without the model part's name."""
    for key in METADATA_TABLES:
        if key in metadata:
            table = json.loads(metadata[key])
            return {name.rsplit(".", 1)[-1]: value for name, value in table.items()}
    return {key: metadata[key] for key in ("lora_alpha",) if key in metadata}


def _module_name(written: str) -> str:
    for prefix in (PEFT_PREFIX, *sorted(OTHER_PREFIXES, key=len, reverse=True), KOHYA_PREFIX):
        written = written.removeprefix(prefix)
    return written


def _kohya(module: str) -> str:
    return module.replace(".", "_")


def _nothing_fits(lora: LoraFile, shapes: Mapping[str, tuple[int, ...]], unmatched: list[str], path: Path | str) -> str:
    example = ""
    for module, adapter in lora.adapters.items():
        shape = shapes.get(f"{module}.weight")
        if shape is not None:
            example = (
                f" {module} is made for a {adapter.up.shape[0]}x{adapter.down.shape[1]} layer, "
                f"the model's is {'x'.join(map(str, shape))}: the LoRA belongs to a model of another size."
            )
            break
    more = ", ..." if len(unmatched) > 5 else ""
    return (
        f"the LoRA {path} fits no layer of this model: none of its {len(unmatched)} modules exists in it in name and "
        f"size ({', '.join(unmatched[:5])}{more}).{example} "
        "Use a LoRA made for Wan2.2-S2V-14B, such as liveavatar.safetensors."
    )
