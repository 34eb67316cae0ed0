"""Larger frames, by a function that a model stands behind."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..errors import InputError
from .step import FinishingStep, FrameByFrame, FrameShape

MIN_SIDE = 16
MAX_SIDE = 16384
"""The longest that the encoders of H.264, HEVC and AV1 take."""
Enlarge = Callable[[Tensor], Tensor]
"""RGB [1, 3, H, W] in 0..1 -> [1, 3, H * scale, W * scale], about 0..1, on whatever device."""


def check_side(name: str, side: int) -> None:
    """Raises InputError unless it is 0, or even and within the limits."""
    if side and (side % 2 or not MIN_SIDE <= side <= MAX_SIDE):
        raise InputError(
            f"{name} is {side}; players need even sides. Give an even number from {MIN_SIDE} to {MAX_SIDE}, or 0, "
            "which follows from the other one or from the model."
        )


@dataclass(frozen=True, eq=False)
class Upscale(FinishingStep):
    """`scale`-fold by `enlarge`, then to `width` x `height`; where one of them is 0 it follows from the other one and
    the frames' aspect, and where both are it is what the model makes. Of another aspect the middle is kept."""

    name: ClassVar[str] = "upscale"
    keeps: ClassVar[str] = "nothing"
    enlarge: Enlarge
    scale: int
    width: int = 0
    height: int = 0
    devices: Sequence[torch.device] = ()

    @property
    def told(self) -> str:
        if not self.width and not self.height:
            return f"upscale x{self.scale}"
        wanted = "x".join(str(side or "?") for side in (self.width, self.height))
        return f"upscale x{self.scale} to {wanted}"

    def size(self, width: int, height: int) -> tuple[int, int]:
        if self.width and self.height:
            return self.width, self.height
        if self.width:
            return self.width, _even(self.width * height / width)
        if self.height:
            return _even(self.height * width / height), self.height
        return width * self.scale, height * self.scale

    def check(self, before: FrameShape) -> None:
        width, height = self.size(before.width, before.height)
        if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE:
            raise InputError(
                f"{self.told} makes {width}x{height} of {before.width}x{before.height}; sides of {MIN_SIDE} to "
                f"{MAX_SIDE} can be encoded. Give another width or height in Finish Upscale."
            )

    def warning(self, before: FrameShape) -> str:
        # To keep all, one side follows from the other to the next even number, which is no other aspect.
        uncropped = replace(self, height=0).size(before.width, before.height)
        if not (self.width and self.height) or abs(uncropped[1] - self.height) <= 2:
            return ""
        return (
            f"Finish Upscale keeps the middle of the frames only: {self.width}x{self.height} has another aspect than "
            f"{before.width}x{before.height}. Set its width or height to 0 to keep all of them."
        )

    def begin(self, before: FrameShape) -> "Upscaler":
        return Upscaler(self.enlarge, *self.size(before.width, before.height))


@dataclass(eq=False)
class Upscaler(FrameByFrame):
    """To width x height. Alpha is enlarged without the model."""

    enlarge: Enlarge
    width: int
    height: int

    def finish_frame(self, frame: Tensor) -> Tensor:
        made = fitted(self.enlarge(frame[None, :3]).float(), self.width, self.height).clamp(0, 1)[0].cpu()
        if frame.shape[0] == made.shape[0]:
            return made
        alpha = fitted(frame[None, 3:], self.width, self.height).clamp(0, 1)[0]
        return torch.cat([made, alpha])


def fitted(pictures: Tensor, width: int, height: int) -> Tensor:
    """[1, C, H, W] resampled so that it covers width x height, of which the middle is kept."""
    old_height, old_width = pictures.shape[-2:]
    if (old_width, old_height) == (width, height):
        return pictures
    factor = max(width / old_width, height / old_height)
    # Never too small by a rounding.
    new_width, new_height = max(width, round(old_width * factor)), max(height, round(old_height * factor))
    resized = interpolate(pictures, (new_height, new_width), mode="bicubic", antialias=True)
    left, top = (new_width - width) // 2, (new_height - height) // 2
    return resized[..., top : top + height, left : left + width]


def _even(side: float) -> int:
    return max(2, 2 * round(side / 2))
