"""Flow-matching Euler schedule.

Source: the diffusers FlowMatchEulerDiscreteScheduler as the original uses it. With 1000 training steps the noise
level is shifted, sigma -> s * sigma / (1 + (s - 1) * sigma); the smallest one is taken after that shift, the steps
lie evenly between 1 and it, and are shifted once more, which is why the last step ends near 0.009.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..dit.embeddings import TRAIN_STEPS
from ..errors import InputError


@dataclass(frozen=True)
class NoiseSchedule:
    """`sigmas`: steps + 1 noise levels from 1 to 0; `timesteps`: what the model is told at each step, in 0..1000."""

    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...]

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    def advance(self, latents: Tensor, velocity: Tensor, step: int) -> Tensor:
        """One Euler step in float32: x + (sigma' - sigma) * v."""
        return latents.float() + (self.sigmas[step + 1] - self.sigmas[step]) * velocity.float()


def flow_matching_schedule(steps: int, shift: float) -> NoiseSchedule:
    """The schedule for so many steps; values are float32, as the original feeds them to the model."""
    if steps < 1 or shift <= 0:
        raise InputError(f"steps {steps} and shift {shift}: steps must be at least 1 and shift above 0; use 4 and 3")
    smallest = _shifted(np.float64(1 / TRAIN_STEPS), shift)
    sigmas = torch.tensor(_shifted(np.linspace(1.0, smallest, steps), shift), dtype=torch.float32)
    return NoiseSchedule((*sigmas.tolist(), 0.0), tuple((sigmas * TRAIN_STEPS).tolist()))


def _shifted(sigma: np.ndarray | np.float64, shift: float) -> np.ndarray:
    return np.asarray(shift * sigma / (1 + (shift - 1) * sigma))
