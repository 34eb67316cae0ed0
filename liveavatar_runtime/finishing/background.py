"""Another background, or none: frames with alpha."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import InputError
from ..media.images import fit_picture
from .step import FinishingStep, FrameByFrame, FrameShape

Mask = Callable[[Tensor], Tensor]
"""RGB [1, 3, H, W] in 0..1 -> how much of each pixel belongs to what is in front, [1, H, W] in 0..1."""
Colour = tuple[float, float, float]


def read_colour(text: str) -> Colour:
    """RGB in 0..1 of a text such as "#00ff00". Raises InputError."""
    digits = text.strip().removeprefix("#")
    if len(digits) != 6 or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
        raise InputError(f"colour is {text!r}; give # and six hexadecimal digits: #00ff00 is green, #ffffff white.")
    red, green, blue = (int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4))
    return red, green, blue


@dataclass(frozen=True, eq=False)
class ReplaceBackground(FinishingStep):
    """`behind` is laid behind what the mask keeps: a picture [H, W, C] as of `media.images.read_picture`, a colour, or
    None: then the mask becomes the frames' alpha."""

    name: ClassVar[str] = "background"
    keeps: ClassVar[str] = "nothing"
    mask: Mask
    behind: Tensor | Colour | None = None
    devices: Sequence[torch.device] = ()

    @property
    def adds_alpha(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.behind is None

    @property
    def told(self) -> str:
        if self.behind is None:
            return "transparent background"
        return "a picture as background" if isinstance(self.behind, Tensor) else "a colour as background"

    def check(self, before: FrameShape) -> None:
        if before.has_alpha:
            raise InputError(
                "The background is cut out twice: a Finish Background before this one makes it transparent. Remove one "
                "of them."
            )

    def begin(self, before: FrameShape) -> "BackgroundReplacer":
        behind = self.behind
        if isinstance(behind, Tensor):
            return BackgroundReplacer(self.mask, fit_picture(behind, before.height, before.width).add(1).div(2))
        return BackgroundReplacer(self.mask, None if behind is None else torch.tensor(behind)[:, None, None])


@dataclass(eq=False)
class BackgroundReplacer(FrameByFrame):
    """`behind`: RGB [3, H, W] or [3, 1, 1]; None for alpha."""

    mask: Mask
    behind: Tensor | None

    def finish_frame(self, frame: Tensor) -> Tensor:
        alpha = self.mask(frame[None]).float().cpu().clamp(0, 1)
        return torch.cat([frame, alpha]) if self.behind is None else torch.lerp(self.behind, frame, alpha)
