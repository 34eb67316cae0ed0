"""Texts in pictures, by Pillow alone."""

from functools import lru_cache
from typing import Any

import PIL
from PIL import Image, ImageDraw, ImageFont, features

BITMAP_WIDTH, BITMAP_HEIGHT = 6, 11
"""Of a letter of Pillow's old font."""


def length_of(text: str, size: int) -> float:
    """Pixels of a text in letters of so many pixels."""
    font = _font(size)
    return BITMAP_WIDTH * len(text) * size / BITMAP_HEIGHT if font is None else font.getlength(text)


def write(picture: Image.Image, place: tuple[float, float], text: str, size: int, colour: str) -> None:
    font = _font(size)
    if font is not None:
        ImageDraw.Draw(picture).text(place, text, fill=colour, font=font)
        return
    small = _bitmap(text)
    height = max(1, round(small.height * size / BITMAP_HEIGHT))
    mask = small.resize((max(1, round(length_of(text, size))), height), Image.Resampling.LANCZOS)
    picture.paste(colour, (round(place[0]), round(place[1])), mask)


def _bitmap(text: str) -> Image.Image:
    """In Pillow's font of one small size."""
    picture = Image.new("L", (BITMAP_WIDTH * len(text), BITMAP_HEIGHT))
    ImageDraw.Draw(picture).text((0, 0), text, fill=255, font=ImageFont.load_default())
    return picture


@lru_cache(8)
def _font(size: int) -> Any:
    """Pillow's own font, which can have any size since 10.1; None before, and where Pillow is built without FreeType:
    then its letters of one size are enlarged."""
    version = tuple(int(part) for part in PIL.__version__.split(".")[:2])
    return ImageFont.load_default(size) if version >= (10, 1) and features.check("freetype2") else None
