"""What a plan costs and what to mind with long ones, in words."""

from typing import TYPE_CHECKING

from ..duration import LATENT_FRAMES_PER_BLOCK, format_duration, format_fps
from ..errors import InputError
from ..latent_space import CHANNELS
from ..texts import clips_text, rough_size

if TYPE_CHECKING:
    from ..sampling.plan import ClipPlan
    from ..sampling.plan_request import PlanRequest

ONLINE_ONLY_CLIPS, DRIFT_CLIPS, WARNING_CLIPS = 100, 500, 800
LATENT_VALUE_BYTES = 4
PIXEL_BYTES = 3 * 4


def spool_bytes(plan: "ClipPlan") -> int:
    """Size of all clips' latents on the disk."""
    height, width = plan.latent_size
    frames = plan.num_blocks * LATENT_FRAMES_PER_BLOCK
    return LATENT_VALUE_BYTES * CHANNELS * frames * height * width


def frames_bytes(plan: "ClipPlan") -> int:
    """Size of all frames of the plan's segment as images in memory."""
    return plan.segment.frames * plan.height * plan.width * PIXEL_BYTES


def summary(plan: "ClipPlan") -> str:
    """The plan in one line."""
    return (
        f"{plan.num_clip} clips x {plan.infer_frames} frames / {format_fps(plan.fps)} fps = "
        f"{format_duration(plan.duration)}: {plan.num_blocks} blocks, {plan.evaluations} evaluations"
    )


def advice(request: "PlanRequest") -> list[str]:
    """What is known of a plan before its voice: its segment, its costs, and what to mind; one item a line."""
    plan = request.plan
    lines = [_open_summary(plan) if request.follows_voice else summary(plan)]
    if plan.segment_clips:
        lines.append(_open_segment(plan) if request.follows_voice else _segment(plan))
    if request.end == "voice":
        lines.append("The video ends with the voice, if these clips cover it: frames of the last clip are left out.")
    disk = spool_bytes(plan) // plan.num_clip if request.follows_voice else spool_bytes(plan)
    each = " a clip" if request.follows_voice else ""
    lines.append(f"Disk for finished clips: {rough_size(disk)}{each}. Memory does not grow with the length.")
    lines.append(_sink(plan, request.follows_voice))
    return lines if request.follows_voice else [*lines, *length_advice(plan)]


def length_advice(plan: "ClipPlan") -> list[str]:
    """What to mind when a video is long."""
    lines: list[str] = []
    if len(plan.segment.clips) > ONLINE_ONLY_CLIPS:
        lines.append(
            f"More than {ONLINE_ONLY_CLIPS} clips: only Online VAE Decode to a file; return_frames and Collect Latents "
            f"are refused (all frames would be {rough_size(frames_bytes(plan))} of memory)."
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


def _open_summary(plan: "ClipPlan") -> str:
    seconds = format_duration(plan.infer_frames / plan.fps)
    return (
        f"As many clips as the voice needs; a clip is {plan.infer_frames} frames / {format_fps(plan.fps)} fps = "
        f"{seconds}: {plan.blocks_per_clip} blocks, {plan.blocks_per_clip * plan.steps} evaluations"
    )


def _segment(plan: "ClipPlan") -> str:
    part = plan.segment
    segments = -(-plan.num_clip // plan.segment_clips)
    seconds = format_duration(part.frames / plan.fps)
    return (
        f"Segment {plan.segment_index + 1} of {segments} (segment_index {plan.segment_index} of 0 to {segments - 1}): "
        f"{clips_text(part.clips)}, {part.frames} frames, {seconds}"
    )


def _open_segment(plan: "ClipPlan") -> str:
    return (
        f"Segment {plan.segment_index + 1} (segment_index {plan.segment_index}): {clips_text(plan.segment.clips)}, as "
        "far as the voice reaches"
    )


def _sink(plan: "ClipPlan", is_open: bool) -> str:
    if plan.sink_policy == "reference":
        return "Sink: the picture, all the way; costs nothing more."
    if plan.sink_policy == "adaptive" or (not is_open and plan.num_clip <= plan.reanchor_clips + 1):
        return "Sink: the first generated frame from clip 2 on; costs less than one evaluation in all."
    times = "" if is_open else f" {(plan.num_clip - 2) // plan.reanchor_clips + 1} times,"
    return (
        f"Sink: a generated frame, anew every {plan.reanchor_clips} clips;{times} each less than one evaluation. What "
        "has drifted until then becomes the new reference."
    )
