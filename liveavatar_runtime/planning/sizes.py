"""What becomes of the size that a user asks for with a picture at hand, in words."""

import math

from ..latent_space import TOKEN_SIDE
from ..media.images import fit_size
from ..sampling.plan import MAX_SIDE, SIDE_MULTIPLE, ClipPlan

SQUARE_AREA = SIDE_MULTIPLE**2
MUCH_CROPPED = 0.05
"""From this part of the picture on the user is warned: less is lost to rounding the sides."""


def cropped(height: int, width: int, video_height: int, video_width: int) -> tuple[str, float]:
    """The side of a picture that is cropped to the video's aspect ("width" or "height"), and the part that is lost."""
    picture, video = width * video_height, height * video_width
    return ("width", 1 - video / picture) if picture > video else ("height", 1 - picture / video)


def size_notes(asked: ClipPlan, height: int, width: int) -> tuple[list[str], list[str]]:
    """For a picture of that size: what is not as asked, and facts: crop, and which choices give the same size.

    Raises InputError when no size fits.
    """
    final = asked.fitted_to(height, width)
    side, part = cropped(height, width, final.height, final.width)
    crop = f"{part:.0%} of the picture's {side} is cropped" if part >= 0.005 else "nothing of the picture is cropped"
    if not asked.keep_aspect:
        return [], [f"{crop} (keep_aspect is off)"] if part >= 0.005 else []
    same = _same_size(asked, final, height, width)
    if part < MUCH_CROPPED:
        return [], [*same, crop]
    return [_much_cropped(asked, final, crop, (height, width))], same


def crop_note(final: ClipPlan, height: int, width: int) -> str:
    """What of a later picture of that size is lost in a video whose size is decided; "" for little."""
    side, part = cropped(height, width, final.height, final.width)
    if part < MUCH_CROPPED:
        return ""
    return f"{part:.0%} of the picture's {side} is cropped to {final.width}x{final.height}. Crop the picture yourself"


def _same_size(asked: ClipPlan, final: ClipPlan, height: int, width: int) -> list[str]:
    """That a smaller choice would make no difference; nothing when the size is the one that was asked for."""
    if (asked.width, asked.height) == (final.width, final.height):
        return []
    text = f"keep_aspect makes {final.width}x{final.height} of {asked.width}x{asked.height} for this picture"
    larger = next_size(height, width, final.height, final.width)
    more = f"; the next larger size is {larger[1]}x{larger[0]}" if larger else ""
    return [f"{text}. Width and height of {final.width}x{final.height} give the same{more}"]


def next_size(height: int, width: int, video_height: int, video_width: int) -> tuple[int, int] | None:
    """(height, width) of the next larger video of a picture, which is also what asking for it gives; None above the
    largest."""
    # Sides are multiples of 64, so a larger size has at least one such square more. Which area gives which size is no
    # steady sequence (`fit_size`), so a size only counts if its own area gives it.
    for area in range(video_height * video_width + SQUARE_AREA, MAX_SIDE**2 + 1, SQUARE_AREA):
        size = fit_size(height, width, area)
        if math.prod(size) == area:
            return size
    return None


def _much_cropped(asked: ClipPlan, final: ClipPlan, crop: str, picture: tuple[int, int]) -> str:
    """`crop` says what is lost of a picture of that (height, width)."""
    rows, columns = fit_size(*picture, asked.width * asked.height, multiple=TOKEN_SIDE)
    text = f"{crop}: with keep_aspect both sides are multiples of 64, here {final.width}x{final.height}"
    part, less = (cropped(*picture, *size)[1] for size in ((final.height, final.width), (rows, columns)))
    usable = min(rows, columns) >= SIDE_MULTIPLE and max(rows, columns) <= MAX_SIDE and less < part / 2
    advice = f"keep_aspect off with {columns}x{rows} crops {less:.0%}, or crop the picture yourself"
    return f"{text}. {advice if usable else 'Crop the picture yourself, or choose another size'}"
