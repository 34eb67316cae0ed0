"""The picture with each speaker's area tinted and numbered, to be looked at before a video is made."""

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw, ImageFilter
from torch import Tensor

from .images import rgb_pixels
from .lettering import length_of, write

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")
"""Of speakers 1 to 4, told apart also by people who are colour-blind."""
TINT = 0.4
GREY = 128
SHOWN_SIDE = 384
"""Pixels that the shorter side has at least, so that numbers can be read."""


def draw_areas(picture: Tensor | None, masks: Tensor) -> Tensor:
    """An IMAGE, float32 [1, h, w, 3] in 0..1, of a picture [H, W, C], or of grey without one, and masks [A, H, W] of
    0 or 1. Small pictures are enlarged."""
    height, width = masks.shape[1:]
    pixels = np.full((height, width, 3), GREY, np.uint8) if picture is None else rgb_pixels(picture)
    scale = max(1.0, SHOWN_SIDE / min(height, width))
    size = round(width * scale), round(height * scale)
    shown = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    areas = [Image.fromarray((mask * 255).astype(np.uint8)).resize(size, Image.Resampling.NEAREST) for mask in
             masks.numpy()]  # fmt: skip
    for area, colour in zip(areas, COLOURS, strict=False):
        _tint(shown, area, colour)
    for number, (area, colour) in enumerate(zip(areas, COLOURS, strict=False), 1):
        _write_number(shown, area, number, colour)
    return torch.from_numpy(np.array(shown)).float()[None] / 255


def _tint(shown: Image.Image, area: Image.Image, colour: str) -> None:
    """Colour an area and, darker, its border."""
    thickness = 2 * (min(shown.size) // 200) + 3
    inner = area.filter(ImageFilter.MinFilter(thickness))
    opacity = np.where(np.array(inner) > 0, TINT, 0.9) * (np.array(area) > 0)
    pixels = np.array(shown).astype(np.float32)
    tinted = pixels + (np.array(ImageColor.getrgb(colour)) - pixels) * opacity[..., None]
    shown.paste(Image.fromarray(tinted.round().astype(np.uint8)))


def _write_number(shown: Image.Image, area: Image.Image, number: int, colour: str) -> None:
    """On a disc in the upper left corner of the area."""
    size = min(shown.size) // 10
    left, top, *_ = area.getbbox() or (0, 0)
    left, top = (min(place + size // 3, side - 2 * size) for place, side in zip((left, top), shown.size, strict=True))
    ImageDraw.Draw(shown).ellipse(
        (left, top, left + 1.6 * size, top + 1.6 * size), fill=colour, outline="white", width=2
    )
    text = str(number)
    write(shown, (left + 0.8 * size - length_of(text, size) / 2, top + 0.22 * size), text, size, "white")
