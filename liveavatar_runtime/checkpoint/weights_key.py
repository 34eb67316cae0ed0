"""Weights as a content hash over all of them, which is the same one wherever a file is loaded."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..dtypes import dtype_name
from ..errors import CheckpointError
from ..fingerprint import Fingerprint
from ..progress import Progress
from ..vae.checkpoint import COMPUTE_DTYPES
from .content import Content, InMemory, Stored, contents, stored_tensors
from .known_hashes import Hashed, KnownHashes
from .lora import PEFT_CONFIG, FittedLora, fit_lora, open_lora
from .quantised import weight_shapes
from .safetensors_io import Checkpoint, open_checkpoint

NAMED = 3
"""Tensors that a refusal names."""


def weights_key(
    path: Path,
    loras: Sequence[tuple[Path, float]],
    known: KnownHashes | None = None,
    progress: Progress | None = None,
) -> str:
    """Over all of the file's weights, and what LoRAs change in them and how strongly: equal in ComfyUI and in workers.

    Of a LoRA the changes count, not its bytes: its scale may come from a file beside it. In which format the weights
    are held and computed with is told elsewhere (`sampling.fingerprint.Numerics`). `known` spares reading files again;
    `progress` is called with bytes read and bytes in all and may raise to stop.
    Raises CheckpointError for weights that are NaN or infinite: no video can come from them.
    """
    known = known or KnownHashes()
    checkpoint = open_checkpoint(path)
    fingerprint = Fingerprint().add("weights", file_digest(checkpoint, known, progress))
    shapes = weight_shapes(checkpoint) if loras else {}
    for file, strength in loras:
        fitted = fit_lora(open_lora(file), shapes)
        fingerprint.add("strength", strength).add("lora", lora_digest(file, fitted, known, progress))
    return fingerprint.hexdigest()


def file_digest(checkpoint: Checkpoint, known: KnownHashes, progress: Progress | None = None) -> str:
    """Over the tensors of a checkpoint by name. Raises CheckpointError for numbers that are none."""
    stored = stored_tensors(checkpoint)
    layout = [[name, tensor.kind, tensor.shape, tensor.size] for name, tensor in stored.items()]
    found = known.of(["file", layout], checkpoint.files, lambda: hashed(contents(stored, progress)))
    refuse_broken(str(checkpoint.path), found)
    return found.digest


def lora_digest(file: Path, fitted: FittedLora, known: KnownHashes, progress: Progress | None = None) -> str:
    """Over what a LoRA changes: targets, kinds, scales and all numbers. Raises CheckpointError for what is none."""
    parts: dict[str, Stored] = {}
    changes = []
    # By the model's names, whatever those in the file are and their order; that of changes of one weight stays.
    for number, change in enumerate(sorted(fitted.changes, key=lambda change: change.target)):
        changes.append([change.target, change.kind.name, change.scale.value])
        for name, part in sorted(change.parts.items()):
            parts[f"{name} of {change.target} (change {number + 1})"] = InMemory(part)
    beside = file.parent / PEFT_CONFIG
    files = [file, beside] if beside.is_file() else [file]
    found = known.of(["lora", changes, list(parts)], files, lambda: hashed(contents(parts, progress)))
    refuse_broken(f"the LoRA {file}", found)
    return Fingerprint().add("changes", changes).add("numbers", found.digest).hexdigest()


def hashed(found: Mapping[str, Content]) -> Hashed:
    """One hash of tensors by name, whatever their order, and those of them that hold NaN or infinite values."""
    fingerprint = Fingerprint()
    for name in sorted(found):
        fingerprint.add(name, found[name].digest)
    broken = [(name, content.broken, content.count) for name, content in found.items() if content.broken]
    return Hashed(fingerprint.hexdigest(), tuple(broken[:NAMED]), len(broken))


def refuse_broken(what: str, found: Hashed) -> None:
    """Raises CheckpointError, naming the first tensors with numbers that are none."""
    if not found.broken_tensors:
        return
    named = ", ".join(f"{name} ({broken:,} of {count:,})" for name, broken, count in found.broken)
    more = f" and {found.broken_tensors - len(found.broken)} more" if found.broken_tensors > len(found.broken) else ""
    raise CheckpointError(
        f"{what} holds values that are not numbers (NaN or infinite) in {named}{more}; with them every video would be "
        "black. The file was made or copied wrongly: get it again, or use another one."
    )


def vae_keys(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """A VAE file's key in each dtype that it may be loaded in: ComfyUI may hold the same file in another one."""
    return {dtype_name(dtype): vae_key(weights, dtype) for dtype in COMPUTE_DTYPES}


def vae_key(weights: Mapping[str, Tensor], dtype: torch.dtype) -> str:
    """Over all of a VAE's weights as they are in `dtype`."""
    fingerprint = Fingerprint().add("dtype", dtype_name(dtype))
    for name in sorted(weights):
        fingerprint.add(name, weights[name].to(dtype))
    return fingerprint.hexdigest()
