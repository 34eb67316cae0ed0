"""Colours like those of a picture, all the way: a long video may drift away from them."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..errors import InputError
from ..media.images import fit_picture
from .step import FinishingStep, FrameByFrame, FrameShape

GRID = 64
"""Colours are counted on at most so many rows and columns of areas; single pixels do not matter."""
STEADY_SECONDS = 4.0
"""A frame counts for the colours of so much time, so that an open mouth or a blink changes nothing that shows."""
SMALLEST_SPREAD = 1e-4
"""Added to all variances (of values in 0..1): a picture of one colour has none."""
GAINS = (0.5, 2.0)
"""Contrast is changed within these."""


@dataclass(frozen=True)
class ColourStatistics:
    """Of RGB in 0..1: the mean [3] and the covariance [3, 3], float64."""

    mean: Tensor
    covariance: Tensor

    @staticmethod
    def of(frame: Tensor) -> "ColourStatistics":
        """Of a frame [3, H, W]."""
        height, width = frame.shape[-2:]
        areas = adaptive_avg_pool2d(frame, (min(GRID, height), min(GRID, width))).flatten(1).double()
        return ColourStatistics(areas.mean(1), torch.cov(areas, correction=0))

    def moved_to(self, new: "ColourStatistics", share: float) -> "ColourStatistics":
        """So much of the way to others."""
        return ColourStatistics(
            torch.lerp(self.mean, new.mean, share), torch.lerp(self.covariance, new.covariance, share)
        )

    def towards(self, wanted: "ColourStatistics") -> tuple[Tensor, Tensor]:
        """Matrix [3, 3] and offset [3] that give colours with these statistics the wanted ones.

        Of all such maps the one that moves colours least (the linear Monge-Kantorovich map, Pitié and Kokaram 2007).
        """
        spread = SMALLEST_SPREAD * torch.eye(3, dtype=torch.float64)
        root = _power(self.covariance + spread, 0.5)
        inverse = torch.linalg.inv(root)
        matrix = inverse @ _power(root @ (wanted.covariance + spread) @ root, 0.5) @ inverse
        values, vectors = torch.linalg.eigh(matrix)
        matrix = vectors @ torch.diag(values.clamp(*GAINS)) @ vectors.T
        return matrix, wanted.mean - matrix @ self.mean


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """Of a symmetric matrix without negative eigenvalues."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return vectors @ torch.diag(values.clamp_min(0).pow(exponent)) @ vectors.T


@dataclass(frozen=True, eq=False)
class MatchColours(FinishingStep):
    """Towards `picture`, float [H, W, C] in 0..1 as of `media.images.read_picture`, fitted to the frames as the sampler
    fits it. strength: 0 leaves frames as they are, 1 gives them the picture's colours."""

    name: ClassVar[str] = "colours"
    keeps: ClassVar[str] = f"mean and covariance of the colours, over some {STEADY_SECONDS:g} seconds"
    picture: Tensor
    strength: float = 1.0

    @property
    def told(self) -> str:
        return f"colours of the picture at strength {self.strength:g}"

    def check(self, before: FrameShape) -> None:
        if before.has_alpha:
            raise InputError(
                "Finish Colours compares whole frames with the picture, and here their background is cut out already. "
                "Put it before Finish Background."
            )

    def begin(self, before: FrameShape) -> "ColourMatcher":
        fitted = fit_picture(self.picture, before.height, before.width).add(1).div(2)
        kept = math.exp(-1 / (STEADY_SECONDS * before.fps))
        return ColourMatcher(ColourStatistics.of(fitted), self.strength, 1 - kept)


@dataclass(eq=False)
class ColourMatcher(FrameByFrame):
    """The map changes a little with every frame (by `share` of the way to its statistics), so there is no step at the
    borders of blocks, however the frames come."""

    wanted: ColourStatistics
    strength: float
    share: float
    seen: ColourStatistics | None = None

    def finish_frame(self, frame: Tensor) -> Tensor:
        here = ColourStatistics.of(frame)
        self.seen = here if self.seen is None else self.seen.moved_to(here, self.share)
        matrix, offset = self.seen.towards(self.wanted)
        matrix = torch.lerp(torch.eye(3, dtype=torch.float64), matrix, self.strength).float()
        moved = torch.einsum("dc,chw->dhw", matrix, frame) + (self.strength * offset).float()[:, None, None]
        return moved.clamp(0, 1)
