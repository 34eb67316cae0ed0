"""All frames of a video as images in memory, as they are in the file: how much that is, and when it is refused."""

from ..errors import InputError
from ..finishing.chain import AS_DECODED, FinishingChain
from ..finishing.step import FrameShape
from ..sampling.plan import ClipPlan
from ..texts import gib

MAX_KEPT_CLIPS = 100
"""Longer videos are never kept as images."""
MANY_BYTES = 4 * 2**30
PIXEL_BYTES = 3 * 4


def decoded_shape(plan: ClipPlan) -> FrameShape:
    """Of a plan's frames as they are decoded."""
    return FrameShape(plan.width, plan.height, plan.fps)


def check_kept(plan: ClipPlan, available: int, finishing: FinishingChain = AS_DECODED) -> str | None:
    """A note for the user when keeping all frames takes much of the `available` bytes of memory.

    Raises InputError when it cannot be done: above 100 clips, or with too little memory.
    """
    clips, needed = len(plan.segment.clips), kept_bytes(plan, finishing)
    shape, frames = finishing.shape(decoded_shape(plan)), plan.segment.frames * finishing.frames_factor
    size = f"{frames} frames of {shape.width}x{shape.height}"
    text = f"return_frames keeps all {size} in memory: {gib(needed)}"
    if clips > MAX_KEPT_CLIPS:
        raise InputError(
            f"{text}. It is refused for more than {MAX_KEPT_CLIPS} clips, this plan has {clips}. Switch it "
            "off and use the video output, which is the file."
        )
    if needed > available:
        raise InputError(
            f"{text}, and {gib(available)} are free. Switch it off and use the video output, or make fewer "
            "clips or a smaller picture."
        )
    return f"{text} of {gib(available)} free." if needed > MANY_BYTES else None


def kept_bytes(plan: ClipPlan, finishing: FinishingChain = AS_DECODED) -> int:
    """Of all frames of the plan's segment, finished, as images in memory."""
    shape = finishing.shape(decoded_shape(plan))
    return plan.segment.frames * finishing.frames_factor * shape.height * shape.width * PIXEL_BYTES
