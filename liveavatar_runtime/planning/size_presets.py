"""Sizes of a video by name, and whether a size suits a model."""

import math

from ..config import WAN_S2V_14B, AvatarConfig
from ..errors import InputError
from ..latent_space import TOKEN_SIDE
from ..sampling.plan import ClipPlan

CUSTOM = "custom"
"""No preset: width, height and keep_aspect decide."""
LANDSCAPE = ((384, 256), (672, 352), (688, 368), (704, 384), (720, 400))
"""(width, height) of the sizes that Live Avatar's own documentation names."""
SMALLEST_14B = 384 * 256
"""Pixels of the smallest size that the 14B model's own documentation names."""


def _square(width: int, height: int) -> tuple[int, int]:
    """The largest square that costs no more."""
    side = math.isqrt(width * height) // TOKEN_SIDE * TOKEN_SIDE
    return side, side


def _named(*sizes: tuple[int, int]) -> dict[str, tuple[int, int]]:
    return {f"{width}x{height}": (width, height) for width, height in sizes}


FAMILIES: tuple[tuple[tuple[int, int], ...], ...] = (
    LANDSCAPE,
    tuple(_square(*size) for size in LANDSCAPE),
    tuple((height, width) for width, height in LANDSCAPE),
)
"""(width, height) of the sizes: lying, square, upright."""
PRESETS: dict[str, tuple[int, int]] = {name: size for family in FAMILIES for name, size in _named(*family).items()}
"""Name -> (width, height): lying, square, upright. The video has exactly this size."""


def shapes_of(size: str) -> tuple[str, str, str]:
    """The names of a lying size, and of the square and the upright one in its place of the list."""
    lying, square, upright = list(PRESETS)[LANDSCAPE.index(PRESETS[size]) :: len(LANDSCAPE)]
    return lying, square, upright


def shape_of(width: float, height: float) -> int:
    """Place in `shapes_of` of what lies, is square or stands as width x height does."""
    return 0 if width > height else 1 if width == height else 2


def check_size(size: str) -> str:
    """`size` itself. Raises InputError unless it is one of the names above or `CUSTOM`."""
    if size != CUSTOM and size not in PRESETS:
        raise InputError(f"size is {size!r}; allowed are {', '.join([CUSTOM, *PRESETS])}")
    return size


def size_note(size: str) -> str:
    """What a preset means for the other widgets; empty for `CUSTOM`."""
    if size == CUSTOM:
        return ""
    return (
        f"size {size}: the video has exactly this size and the picture is cropped to it; width, height and keep_aspect "
        "are not used"
    )


def unsuitable_size(config: AvatarConfig, made_for: tuple[int, int] | None, plan: ClipPlan) -> str:
    """Why a model will not do well at the plan's size, and what to do; empty when nothing is known against it.

    made_for: (width, height) that the model was trained at and knows no other, where its folder says so.
    """
    size = f"{plan.width}x{plan.height}"
    if made_for is not None and (plan.width, plan.height) != made_for:
        width, height = made_for
        return (
            f"This model only knows {width}x{height} pixels, and the video is {size}: it will look wrong. Set size "
            f"custom, width {width} and height {height} in Clip Scheduler, or load the 14B model."
        )
    if config.dim >= WAN_S2V_14B.dim and plan.width * plan.height < SMALLEST_14B:
        return (
            f"{size} is less than the 14B model knows, so the face will look wrong: choose a size of 384x256 or more "
            "in Clip Scheduler."
        )
    return ""
