"""Inputs that several nodes share: the same limits and defaults everywhere."""

from typing import Any

from comfy_api.latest import io

from liveavatar_runtime.duration import FRAMES_PER_BLOCK, MAX_FPS, MIN_FPS, check_infer_frames

from ..comfy_bridge.validation import check_number

MAX_CLIPS = 1_000_000
INFER_FRAMES, MAX_INFER_FRAMES, FPS = 48, 960, 16.0


def infer_frames_input(tooltip: str, **options: Any) -> io.Int.Input:
    return io.Int.Input(
        "infer_frames",
        default=INFER_FRAMES,
        min=FRAMES_PER_BLOCK,
        max=MAX_INFER_FRAMES,
        step=FRAMES_PER_BLOCK,
        tooltip=tooltip,
        **options,
    )


def fps_input(tooltip: str, **options: Any) -> io.Float.Input:
    return io.Float.Input("fps", default=FPS, min=MIN_FPS, max=MAX_FPS, step=0.001, tooltip=tooltip, **options)


def check_clip_frames(node: type[io.ComfyNode], infer_frames: int) -> None:
    """Raises InputError unless `infer_frames` is a multiple of a block within the limits of the node's widget."""
    # Above the limit the next multiple would be no advice.
    if infer_frames <= MAX_INFER_FRAMES:
        check_infer_frames(infer_frames)
    check_number(node, infer_frames=infer_frames)
