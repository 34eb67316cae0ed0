"""Weights of a model that is not loaded yet. Those on the meta device, which have no memory, are not computed either:
to divide or to fill them PyTorch would import its compiler, which takes more than a second.
"""

from typing import Any

import torch
from torch import Tensor, nn


def small_weight(*size: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """Normal numbers divided by the square root of the last size; on the meta device a tensor of that size."""
    if _on_meta(device):
        return torch.empty(size, device=device, dtype=dtype)
    return torch.randn(size, device=device, dtype=dtype) / size[-1] ** 0.5


def embedding(operations: Any, rows: int, width: int, **factory: Any) -> nn.Embedding:
    """The layer of `operations`; `factory`: its device and dtype."""
    weight = {"_weight": torch.empty(rows, width, **factory)} if _on_meta(factory.get("device")) else {}
    return operations.Embedding(rows, width, **weight, **factory)


def _on_meta(device: torch.device | str | None) -> bool:
    return (torch.get_default_device() if device is None else torch.device(device)).type == "meta"
