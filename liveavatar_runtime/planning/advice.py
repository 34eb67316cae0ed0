"""What a plan costs and what to mind with long ones, in words."""

from typing import TYPE_CHECKING

from ..errors import InputError
from .duration import LATENT_FRAMES_PER_BLOCK, format_duration

if TYPE_CHECKING:
    from ..sampling.plan import ClipPlan

ONLINE_ONLY_CLIPS, DRIFT_CLIPS, WARNING_CLIPS = 100, 500, 800
LATENT_VALUE_BYTES, LATENT_CHANNELS = 4, 16
PIXEL_BYTES = 3 * 4


def spool_bytes(plan: "ClipPlan") -> int:
    """Size of all clips' latents on the disk."""
    height, width = plan.latent_size
    frames = plan.num_blocks * LATENT_FRAMES_PER_BLOCK
    return LATENT_VALUE_BYTES * LATENT_CHANNELS * frames * height * width


def frames_bytes(plan: "ClipPlan") -> int:
    """Size of all frames of the plan's segment as images in memory."""
    return plan.segment.frames * plan.height * plan.width * PIXEL_BYTES


def summary(plan: "ClipPlan") -> str:
    """The plan in one line."""
    return (
        f"{plan.num_clip} clips x {plan.infer_frames} frames / {float(plan.fps):g} fps = "
        f"{format_duration(plan.duration)}: {plan.num_blocks} blocks, {plan.evaluations} evaluations"
    )


def advice(plan: "ClipPlan") -> list[str]:
    """The plan, its segment, its costs, and what to mind; one item a line."""
    lines = [summary(plan)]
    if plan.segment_clips:
        lines.append(_segment(plan))
    lines.append(f"Disk for finished clips: {_size(spool_bytes(plan))}. Memory does not grow with the length.")
    lines.append(_sink(plan))
    if len(plan.segment.clips) > ONLINE_ONLY_CLIPS:
        lines.append(
            f"More than {ONLINE_ONLY_CLIPS} clips: only Online VAE Decode to a file; return_frames and Collect Latents "
            f"are refused (all frames would be {_size(frames_bytes(plan))} of memory)."
        )
    if plan.num_clip > DRIFT_CLIPS:
        lines.append(
            f"More than {DRIFT_CLIPS} clips: the picture may drift a little from clip to clip. Look at the file while "
            "it grows; sink_policy reference holds on to the picture, segment_clips lets you check part by part."
        )
    if plan.num_clip > WARNING_CLIPS:
        lines.append(
            f"Warning: more than {WARNING_CLIPS} clips in one video. Keep spool on, so that nothing is lost; better "
            "make several videos and join them with Join Segments."
        )
    return lines


def check_collected(plan: "ClipPlan") -> None:
    """Raises InputError when the plan's segment is too long to be collected in memory."""
    clips = len(plan.segment.clips)
    if clips > ONLINE_ONLY_CLIPS:
        raise InputError(
            f"{clips} clips are too many to collect in memory; allowed are {ONLINE_ONLY_CLIPS}. Use Online VAE Decode, "
            "which writes any length to a file, or make the video in segments (segment_clips of Clip Scheduler)."
        )


def _segment(plan: "ClipPlan") -> str:
    part = plan.segment
    segments = -(-plan.num_clip // plan.segment_clips)
    seconds = format_duration(part.frames / plan.fps)
    return (
        f"Segment {plan.segment_index} of 0 to {segments - 1}: clips {part.clips.start} to {part.clips.stop - 1}, "
        f"{part.frames} frames, {seconds}"
    )


def _sink(plan: "ClipPlan") -> str:
    if plan.sink_policy == "reference":
        return "Sink: the picture, all the way; costs nothing more."
    if plan.sink_policy == "adaptive" or plan.num_clip <= plan.reanchor_clips + 1:
        return "Sink: the first generated frame from clip 1 on; costs less than one evaluation in all."
    times = (plan.num_clip - 2) // plan.reanchor_clips + 1
    return (
        f"Sink: a generated frame, anew every {plan.reanchor_clips} clips; {times} times, each less than one "
        "evaluation. What has drifted until then becomes the new reference."
    )


def _size(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
