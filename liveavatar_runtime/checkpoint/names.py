"""The names of the transformer's tensors in a file: what programs wrapped around them is found and taken off.

Trainers and compilers put a word in front of every name for each module that they wrap around the model (`module.`,
`_orig_mod.`, `model.diffusion_model.`, ...), in any combination. Whatever stands in front of the names that every
Wan model has is such a wrapper.
"""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ..errors import CheckpointError

MODEL_PREFIXES = ("model.diffusion_model.", "diffusion_model.")
"""What ComfyUI's own files put in front of the transformer's names."""

LANDMARKS = (
    "head.modulation",
    "patch_embedding.bias",
    "time_projection.1.bias",
    "text_embedding.2.bias",
    "blocks.0.modulation",
    "trainable_cond_mask.weight",
    "casual_audio_encoder.weights",
)
"""Tensors at the root of the model; together no other model has them, and no quantisation renames them."""

# Wrappers around single layers, in the middle of a name; no Wan model has modules of such names.
INNER_WRAPPERS = re.compile(r"(?<=\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def model_prefix(path: Path, names: Iterable[str]) -> str:
    """What stands in front of the transformer's own names, "" for nothing.

    Raises CheckpointError when the file holds the model more than once.
    """
    names = list(names)
    found = Counter(
        name.removesuffix(mark) for name in names for mark in LANDMARKS if name == mark or name.endswith(f".{mark}")
    )
    if not found:
        starts = (prefix for prefix in MODEL_PREFIXES if any(name.startswith(prefix) for name in names))
        return next(starts, "")
    most = max(found.values())
    best = sorted(prefix for prefix, count in found.items() if count == most)
    preferred = [prefix for prefix in ("", *MODEL_PREFIXES) if prefix in best]
    if len(best) > 1 and not preferred:
        raise CheckpointError(
            f"{path} holds the model {len(best)} times, under the names {', '.join(f'{name}*' for name in best)}. "
            "Keep one of them (of a training checkpoint mostly the averaged one, ema) in a file of its own."
        )
    return preferred[0] if preferred else best[0]


def own_names(path: Path, stored: Iterable[str]) -> dict[str, str]:
    """The model's own names -> the file's. Tensors beside the model, such as a VAE's, are left out.

    Raises CheckpointError when two tensors get one name, or the file holds the model more than once.
    """
    names = list(stored)
    prefix = model_prefix(path, names)
    own: dict[str, str] = {}
    for name in names:
        if not name.startswith(prefix):
            continue
        new = without_inner_wrappers(name.removeprefix(prefix))
        if new in own:
            raise CheckpointError(f"{path} holds {new} twice, as {own[new]} and as {name}; keep one of them")
        own[new] = name
    return own


def without_inner_wrappers(name: str) -> str:
    return INNER_WRAPPERS.sub("", name)
