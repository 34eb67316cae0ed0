"""Inputs that several nodes share: the same limits and defaults everywhere."""

from typing import Any

from comfy_api.latest import io

from liveavatar_runtime.planning.duration import FRAMES_PER_BLOCK, MAX_FPS, MIN_FPS

MAX_CLIPS = 1_000_000


INFER_FRAMES, FPS = 48, 16.0


def infer_frames_input(tooltip: str, **options: Any) -> io.Int.Input:
    return io.Int.Input(
        "infer_frames",
        default=INFER_FRAMES,
        min=FRAMES_PER_BLOCK,
        max=960,
        step=FRAMES_PER_BLOCK,
        tooltip=tooltip,
        **options,
    )


def fps_input(tooltip: str, **options: Any) -> io.Float.Input:
    return io.Float.Input("fps", default=FPS, min=MIN_FPS, max=MAX_FPS, step=0.001, tooltip=tooltip, **options)
