"""Adam, and Muon in float32: steps along orthogonal matrices, by K. Jordan's Newton-Schulz iteration.

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
    """Of matrices, and of convolutions [out, in, ...] as matrices [out, the rest]. At the same rate steps are as long
    as those of Adam. Taps that no gradient reaches stay as they are."""

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
            for same in by_shape.values():
                wanted = torch.stack([self._direction(p, group["momentum"]).flatten(1) for p in same])
                length = group["lr"] * 0.2 * max(wanted.shape[1:]) ** 0.5
                for parameter, direction in zip(same, orthogonalized(wanted), strict=True):
                    parameter.sub_(direction.view_as(parameter), alpha=length)
        return None

    def _direction(self, parameter: Tensor, momentum: float) -> Tensor:
        """Nesterov's."""
        assert parameter.grad is not None
        state: dict[str, Any] = self.state[parameter]
        mean: Tensor = state.setdefault("momentum_buffer", torch.zeros_like(parameter))
        mean.lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(mean, momentum)


class Together:
    """Several optimizers and a shared rate as one, for checkpoints."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts

    def state_dict(self) -> dict[str, object]:
        return {str(n): part.state_dict() for n, part in enumerate(self.parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for n, part in enumerate(self.parts):
            part.load_state_dict(state[str(n)])

    def step(self, rate: float) -> None:
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()


def adam(model: nn.Module) -> Together:
    """For all that is trained of a model."""
    return Together([_adam([p for p in model.parameters() if p.requires_grad])])


def muon_for_convolutions(model: nn.Module) -> Together:
    """Muon for those that look around in a picture or mix channels, Adam for all else: pixels, pairs of frames, norms,
    biases."""
    return muon_for(model, lambda _, p: p.ndim >= 4 and min(p.shape[:2]) > 3 and p.shape[2:] != (3, 1, 1))


def muon_for(model: nn.Module, chosen: Callable[[str, nn.Parameter], bool]) -> Together:
    """Muon for the chosen ones of what is trained, by names and parameters; Adam for the rest."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    inner = {name: p for name, p in trained.items() if chosen(name, p)}
    rest = [p for name, p in trained.items() if name not in inner]
    return Together([Muon(inner.values(), lr=1.0), _adam(rest)])


def _adam(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1.0, betas=(0.9, 0.98))
