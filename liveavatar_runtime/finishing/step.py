"""What a step of the finishing is: a row that says what it makes of frames, and what works on those of one video."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class FrameShape:
    """Of frames on their way to the file: pixels, the exact frames a second, whether they have alpha."""

    width: int
    height: int
    fps: Fraction
    has_alpha: bool = False


class BlockFinisher(Protocol):
    """A step at work on one video, whose frames come in their order, any number of them at a time.

    Frames are float32 [3 or 4, T, H, W] in 0..1 on the CPU: RGB, and straight alpha.
    """

    def finish(self, frames: Tensor) -> Tensor:
        """Those that can be made of the frames so far and were not given yet."""
        ...

    def flush(self) -> Tensor | None:
        """What still waited for a next frame, once there is none."""
        ...


class FinishingStep(ABC):
    """A row of the finishing.

    name: how messages call it. keeps: what it remembers from frame to frame. frames_factor: frames that it makes of
    one. adds_alpha: whether frames have alpha behind it that had none. devices: those it computes on.
    """

    name: ClassVar[str]
    keeps: ClassVar[str]
    frames_factor: int = 1
    adds_alpha: bool = False
    devices: Sequence[torch.device] = ()

    @property
    @abstractmethod
    def told(self) -> str:
        """What it does, in a few words, for the node and the report."""

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of what it makes of frames of this size; even ones become even ones."""
        return width, height

    def check(self, before: FrameShape) -> None:  # noqa: B027 - most take all
        """Raises InputError for frames that it cannot take."""

    def shape(self, before: FrameShape) -> FrameShape:
        """Of what it makes of such frames. Raises as `check`."""
        self.check(before)
        width, height = self.size(before.width, before.height)
        has_alpha = before.has_alpha or self.adds_alpha
        return replace(before, width=width, height=height, fps=before.fps * self.frames_factor, has_alpha=has_alpha)

    def warning(self, before: FrameShape) -> str:
        """What of frames of this shape it leaves out, and how to keep it; empty where that is nothing."""
        return ""

    @abstractmethod
    def begin(self, before: FrameShape) -> BlockFinisher:
        """For the frames of one video."""


class FrameByFrame:
    """A finisher that makes one frame of each, for steps to derive theirs from."""

    def finish(self, frames: Tensor) -> Tensor:
        made = [self.finish_frame(frame) for frame in frames.unbind(1)]
        return torch.stack(made, dim=1) if made else frames

    def flush(self) -> None:
        return None

    @abstractmethod
    def finish_frame(self, frame: Tensor) -> Tensor:
        """[3 or 4, H, W] as a frame of the same kind."""
