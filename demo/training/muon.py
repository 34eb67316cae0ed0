"""Muon in float32: steps along orthogonal matrices, by K. Jordan's Newton-Schulz iteration.

`torch.optim.Muon` iterates in bf16, which processors without products of bf16 compute so slowly that it took two fifths
of a training step. Here all matrices of a shape are one batch.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalized(matrices: Tensor) -> Tensor:
    """[N, rows, columns] -> the same singular vectors with singular values of about 1 (0.7 to 1.2)."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp_min(1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Of matrices only. Steps are as long as those of Adam at the same rate."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """closure must be None: gradients are computed before."""
        for group in self.param_groups:
            by_shape: defaultdict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, same in by_shape.items():
                directions = orthogonalized(torch.stack([self._direction(p, group["momentum"]) for p in same]))
                length = group["lr"] * 0.2 * max(shape) ** 0.5
                for parameter, direction in zip(same, directions, strict=True):
                    parameter.sub_(direction, alpha=length)
        return None

    def _direction(self, parameter: Tensor, momentum: float) -> Tensor:
        """Nesterov's."""
        assert parameter.grad is not None
        state: dict[str, Any] = self.state[parameter]
        mean: Tensor = state.setdefault("momentum_buffer", torch.zeros_like(parameter))
        mean.lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(mean, momentum)
