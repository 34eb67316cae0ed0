"""Sizes of videos that are usually made."""

SMALLER_SIZES = ((688, 368), (672, 352), (384, 256))


def smaller_sizes(width: int, height: int) -> list[tuple[int, int]]:
    """Usual sizes below one, as (width, height)."""
    return [size for size in SMALLER_SIZES if size[0] * size[1] < width * height]
