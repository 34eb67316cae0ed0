"""Random weights for layers that a library initialises in a way that hides mistakes, or not at all."""

from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def randomised(model: Model, seed: int = 3) -> Model:
    """Every weight drawn anew so that activations stay near 1: also biases, which begin at 0, and norms, at 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim < 2:
                noise = noise * 0.1 + float("norm" in name and name.endswith("weight"))
            elif not name.endswith("original0"):
                noise = noise / weight[0].numel() ** 0.5
            weight.copy_(noise)
    return model.eval()
