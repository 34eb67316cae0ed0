"""Inputs that several nodes share: the same limits and defaults everywhere."""

from comfy_api.latest import io

from ..liveavatar_runtime.planning.duration import FRAMES_PER_BLOCK, MAX_FPS, MIN_FPS

MAX_CLIPS = 1_000_000


def num_clip_input(tooltip: str) -> io.Int.Input:
    return io.Int.Input("num_clip", default=10, min=1, max=MAX_CLIPS, tooltip=tooltip)


def infer_frames_input(tooltip: str) -> io.Int.Input:
    return io.Int.Input(
        "infer_frames", default=48, min=FRAMES_PER_BLOCK, max=960, step=FRAMES_PER_BLOCK, tooltip=tooltip
    )


def fps_input(tooltip: str) -> io.Float.Input:
    return io.Float.Input("fps", default=16.0, min=MIN_FPS, max=MAX_FPS, step=0.001, tooltip=tooltip)
