"""The kinds of change a LoRA file can hold for a weight: what they need, what they fit, and their arithmetic.

ComfyUI's core applies all of them. The runtime merges those for which `Kind.change` is given; the others need the
weights that they change, in ways in which versions of core differ, so that workers would give other latents.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Parts = Mapping[str, Tensor]
Shape = tuple[int, ...]
Size = tuple[int, int | None]
"""Rows and columns of the weight that a change is for, its further axes counted as columns; None for any columns."""


@dataclass(frozen=True)
class Kind:
    """One kind of change.

    `needs`: parts, one of each group must be there. `also`: parts that may be there. `size`: None when the parts do
    not fit together. `change`: float32 [rows, columns], to be added times strength and scale. `dim`: what alpha is
    divided by; None when alpha does not scale this kind.
    """

    name: str
    needs: tuple[tuple[str, ...], ...]
    also: tuple[str, ...]
    size: Callable[[Parts], Size | None]
    change: Callable[[Parts], Tensor] | None = None
    dim: Callable[[Parts], int | None] = lambda parts: None

    def taken(self, parts: Parts) -> dict[str, Tensor] | None:
        """The parts that are this kind's; None when some are missing."""
        if not all(any(name in parts for name in group) for group in self.needs):
            return None
        own = {*(name for group in self.needs for name in group), *self.also}
        return {name: tensor for name, tensor in parts.items() if name in own}

    def fits(self, parts: Parts, shape: Shape) -> bool:
        size = self.size(parts)
        return size is not None and size[0] == shape[0] and size[1] in (None, math.prod(shape[1:]))


def _matrix(tensor: Tensor) -> Tensor:
    return tensor.float().flatten(1)


def _product(left: Tensor | None, right: Tensor | None) -> Size | None:
    """Size of left @ right, each flattened to a matrix; None when they cannot be multiplied."""
    if left is None or right is None or left.ndim < 2 or right.ndim < 2:
        return None
    return (left.shape[0], math.prod(right.shape[1:])) if math.prod(left.shape[1:]) == right.shape[0] else None


def _same(*sizes: Size | None) -> Size | None:
    return sizes[0] if all(size is not None and size == sizes[0] for size in sizes) else None


def _lora_change(parts: Parts) -> Tensor:
    return _matrix(parts["up"]) @ _matrix(parts["down"])


def _loha_size(parts: Parts) -> Size | None:
    first, second = (_product(parts[f"hada_w{n}_a"], parts[f"hada_w{n}_b"]) for n in (1, 2))
    return _same(first, second)


def _loha_change(parts: Parts) -> Tensor:
    first, second = (_matrix(parts[f"hada_w{n}_a"]) @ _matrix(parts[f"hada_w{n}_b"]) for n in (1, 2))
    return first * second


def _lokr_factor(parts: Parts, number: int) -> Size | None:
    whole = parts.get(f"lokr_w{number}")
    if whole is None:
        return _product(parts.get(f"lokr_w{number}_a"), parts.get(f"lokr_w{number}_b"))
    return (whole.shape[0], math.prod(whole.shape[1:])) if whole.ndim >= 2 else None


def _lokr_size(parts: Parts) -> Size | None:
    first, second = _lokr_factor(parts, 1), _lokr_factor(parts, 2)
    if first is None or second is None or first[1] is None or second[1] is None:
        return None
    return first[0] * second[0], first[1] * second[1]


def _lokr_change(parts: Parts) -> Tensor:
    factors = []
    for number in (1, 2):
        whole = parts.get(f"lokr_w{number}")
        a, b = parts.get(f"lokr_w{number}_a"), parts.get(f"lokr_w{number}_b")
        if whole is not None:
            factors.append(_matrix(whole))
        elif a is not None and b is not None:
            factors.append(_matrix(a) @ _matrix(b))
    return torch.kron(*factors)


def _lokr_dim(parts: Parts) -> int | None:
    """Two whole factors have no rank, and then alpha means nothing (programs write 1e10 there)."""
    ranks = [parts[name].shape[0] for name in ("lokr_w2_b", "lokr_w1_b") if name in parts]
    return ranks[0] if ranks else None


def _glora_size(parts: Parts) -> Size | None:
    """Either order of the factors that LyCORIS has written."""
    a1, a2, b1, b2 = (parts[name] for name in ("a1", "a2", "b1", "b2"))
    for up, down, into, out in ((b1, b2, a1, a2), (b2, b1, a2, a1)):
        size, square = _product(up, down), _product(into, out)
        if size is not None and square == (size[1], size[1]):
            return size
    return None


def _oft_size(parts: Parts) -> Size | None:
    blocks = parts["oft_blocks"]
    square = blocks.ndim == 3 and blocks.shape[1] == blocks.shape[2]
    return (blocks.shape[0] * blocks.shape[1], None) if square else None


def _boft_size(parts: Parts) -> Size | None:
    blocks = parts["oft_blocks"]
    square = blocks.ndim == 4 and blocks.shape[2] == blocks.shape[3] and blocks.shape[2] % 2 == 0
    return (blocks.shape[1] * blocks.shape[2], None) if square else None


LOW_RANK = Kind(
    "LoRA",
    needs=(("down",), ("up",)),
    also=("alpha", "dora_scale", "lora_magnitude_vector", "reshape_weight", "mid"),
    size=lambda parts: None if "mid" in parts else _product(parts["up"], parts["down"]),
    change=_lora_change,
    dim=lambda parts: parts["down"].shape[0],
)
OFT = Kind("OFT", needs=(("oft_blocks",),), also=("rescale", "alpha", "dora_scale"), size=_oft_size)
BOFT = Kind("BOFT", needs=OFT.needs, also=OFT.also, size=_boft_size)
ADAPTERS = (
    LOW_RANK,
    Kind(
        "LoHa",
        needs=(("hada_w1_a",), ("hada_w1_b",), ("hada_w2_a",), ("hada_w2_b",)),
        also=("alpha", "dora_scale", "hada_t1", "hada_t2"),
        size=lambda parts: None if "hada_t1" in parts else _loha_size(parts),
        change=_loha_change,
        dim=lambda parts: parts["hada_w1_b"].shape[0],
    ),
    Kind(
        "LoKr",
        needs=(("lokr_w1", "lokr_w1_a"), ("lokr_w2", "lokr_w2_a")),
        also=("lokr_w1_b", "lokr_w2_b", "lokr_t2", "alpha", "dora_scale"),
        size=lambda parts: None if "lokr_t2" in parts else _lokr_size(parts),
        change=_lokr_change,
        dim=_lokr_dim,
    ),
    Kind(
        "GLoRA",
        needs=(("a1",), ("a2",), ("b1",), ("b2",)),
        also=("alpha", "dora_scale"),
        size=_glora_size,
        dim=lambda parts: min(parts["a1"].shape),
    ),
    OFT,
    BOFT,
)
"""Kinds of which a module has one; which of OFT and BOFT it is, the number of axes tells."""
DIFFERENCE = Kind("difference", needs=(("diff",),), also=(), size=lambda parts: None)
REPLACEMENT = Kind("replacement", needs=(("set_weight",),), also=(), size=lambda parts: None)


def adapter_kind(parts: Parts) -> tuple[Kind, dict[str, Tensor]] | None:
    """The kind of a module's adapter and its parts; None when there is no complete one."""
    for kind in ADAPTERS:
        own = kind.taken(parts)
        if own is not None:
            return (BOFT, own) if kind is OFT and own["oft_blocks"].ndim == 4 else (kind, own)
    return None
