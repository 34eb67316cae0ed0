"""Content hashes: what makes two videos the same one."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from .conditions import Conditions
from .plan import ClipPlan

CHUNK_BYTES = 2**26
# Raised when the same inputs begin to give other latents.
FORMAT = 3
NOT_IN_KEY = {"num_clip", "segment_clips", "segment_index", "keep_aspect", "cut_frames"}
"""Fields of a plan that change how much of a video is made, not what is in it."""


class Fingerprint:
    """A growing SHA-256 over named values: tensors by dtype, shape and bytes, all else by its JSON."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, name: str, value: Any) -> "Fingerprint":
        """Take in a tensor of any device, or a value that JSON knows."""
        if isinstance(value, Tensor):
            self._line(name, [str(value.dtype), list(value.shape)])
            for part in byte_chunks(value):
                self._hash.update(part)
        else:
            self._line(name, value)
        return self

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def _line(self, name: str, value: Any) -> None:
        self._hash.update(json.dumps([name, value], sort_keys=True, default=str).encode() + b"\n")


def byte_chunks(tensor: Tensor, size: int = CHUNK_BYTES) -> Iterator[Any]:
    """The bytes of a tensor in order, as arrays of at most `size`: a long voice's features lie on the disk."""
    flat = tensor.detach().contiguous().reshape(-1)
    count = max(1, size // flat.element_size())
    for start in range(0, flat.numel(), count):
        yield flat[start : start + count].view(torch.uint8).cpu().numpy()


EXACT = "exact"
"""Attention by any kernel that computes it as defined: PyTorch's, flash, xformers. They round in another order only."""


@dataclass(frozen=True)
class Numerics:
    """How a model computes, as far as that decides latents beyond the order of rounding.

    `weights`: the formats that the weights are held in (a LoRA is rounded to them); `computes`: dtype of hidden states;
    `attention`: `EXACT`, or the name of a kernel that approximates; `kv_dtype`: what the caches are kept as
    (`planning.memory.Placement`); `patches`: of what other programs put on the model.

    Executors, devices, schedules, `torch.compile` and the exact kernels are not in it: on a processor they give the
    same bits, on a GPU the same numbers but for rounding, and hours of sampling are not thrown away for that.
    """

    weights: str
    computes: str
    attention: str = EXACT
    kv_dtype: str = "model"
    patches: tuple[str, ...] = ()


def video_key(weights: str, numerics: Numerics, conditions: Conditions, voice: str, plan: ClipPlan) -> str:
    """Name of a video: equal for equal model, conditions and plan, whatever the number of clips and the segments, and
    whatever computes it.

    `weights` (`parallel.weights_key`) and `voice` are fingerprints of their own. A longer plan with the same settings
    begins with the same clips, because each clip has noise of its own and looks back only.
    """
    fields = {name: value for name, value in asdict(plan).items() if name not in NOT_IN_KEY}
    if plan.sink_policy != "reanchor":
        del fields["reanchor_clips"]
    fingerprint = Fingerprint().add("format", FORMAT).add("weights", weights).add("numerics", asdict(numerics))
    fingerprint.add("voice", voice).add("plan", fields)
    for name in ("text", "reference", "motion", "actor_masks"):
        fingerprint.add(name, getattr(conditions, name))
    return fingerprint.hexdigest()[:32]
