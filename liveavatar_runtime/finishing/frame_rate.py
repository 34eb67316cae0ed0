"""More frames a second: those between two are made by a function that a model stands behind."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .step import FinishingStep, FrameShape

MAX_FACTOR = 8
Between = Callable[[Tensor, Tensor, Sequence[float]], Tensor]
"""Two frames [1, 3, H, W] in 0..1 and times between them, 0 to 1 -> a frame for each time, [times, 3, H, W]. It is
asked for one pair after the other, the second frame of which is the first of the next."""


@dataclass(frozen=True, eq=False)
class MultiplyFrames(FinishingStep):
    """`frames_factor` frames of each one. Every frame keeps its time, so that the sound fits: those that are made
    follow it. Behind the last one of a video, or of a segment that is made alone, there is nothing to go towards: it
    is repeated, so the number of frames is exact.

    between: makes what does the work in one video.
    """

    name: ClassVar[str] = "frame rate"
    keeps: ClassVar[str] = "the last frame"
    between: Callable[[], Between]
    frames_factor: int = 2
    devices: Sequence[torch.device] = ()

    @property
    def told(self) -> str:
        return f"frame rate x{self.frames_factor}"

    def begin(self, before: FrameShape) -> "FrameMultiplier":
        return FrameMultiplier(self.between(), self.frames_factor)


@dataclass(eq=False)
class FrameMultiplier:
    """Gives a frame at once, and those between it and the next one when that has come. Alpha is blended."""

    between: Between
    factor: int
    last: Tensor | None = None
    """[3 or 4, 1, H, W]"""

    @property
    def times(self) -> list[float]:
        return [number / self.factor for number in range(1, self.factor)]

    def finish(self, frames: Tensor) -> Tensor:
        made: list[Tensor] = []
        for frame in (single[:, None] for single in frames.unbind(1)):
            if self.last is not None:
                made.append(self._made(self.last, frame))
            made.append(frame)
            self.last = frame
        return torch.cat(made, dim=1) if made else frames

    def flush(self) -> Tensor | None:
        last, self.last = self.last, None
        return None if last is None else last.expand(-1, self.factor - 1, -1, -1)

    def _made(self, first: Tensor, second: Tensor) -> Tensor:
        """[3 or 4, factor - 1, H, W]"""
        one, two = (frame[:3].transpose(0, 1) for frame in (first, second))
        colours = self.between(one, two, self.times).float().cpu().clamp(0, 1).transpose(0, 1)
        if first.shape[0] == colours.shape[0]:
            return colours
        alpha = torch.cat([torch.lerp(first[3:], second[3:], time) for time in self.times], dim=1)
        return torch.cat([colours, alpha])
