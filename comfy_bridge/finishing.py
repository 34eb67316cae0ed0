"""What travels between the finishing nodes: the steps, and ComfyUI's models that they work with."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from liveavatar_runtime.finishing.chain import AS_DECODED, FinishingChain
from liveavatar_runtime.finishing.step import FinishingStep, FrameShape

from .beside import Beside
from .comfy_types import Managed
from .memory import load_on_device

if TYPE_CHECKING:
    from liveavatar_runtime.sampling.plan import ClipPlan

MOST_PLAYED = 4096 * 2304
"""Pixels of a frame that cards and players decode as H.264 (level 5.2)."""


@dataclass(frozen=True, eq=False)
class StepModel:
    """A model under ComfyUI's memory management, and the bytes that its work takes for frames of a shape."""

    patcher: Managed[torch.nn.Module]
    working_bytes: Callable[[FrameShape], int]


@dataclass(frozen=True, eq=False)
class Finishing:
    """LIVEAVATAR_FINISHING: steps in their order, each with its model, None where it has none."""

    chain: FinishingChain = AS_DECODED
    models: tuple[StepModel | None, ...] = ()

    def and_then(self, step: FinishingStep, model: StepModel | None = None) -> "Finishing":
        return Finishing(self.chain.and_then(step), (*self.models, model))

    def working_bytes(self, decoded: FrameShape) -> int:
        """Of the step that needs most for frames like these; only one works at a time."""
        shapes = self.chain.shapes(decoded)
        sizes = [model.working_bytes(shape) for model, shape in zip(self.models, shapes, strict=False) if model]
        return max(sizes, default=0)

    @contextmanager
    def loaded(self, decoded: FrameShape, beside: Beside, others: "list[Managed[torch.nn.Module]]") -> Iterator[None]:
        """In here the models are on their devices, beside a sampler that begins in here and the `others`.

        They are loaded by the thread of the node, once: ComfyUI makes room by taking off whatever it can, so another
        thread that loaded one would take the sampler's weights while they are used.
        """
        models = [model.patcher for model in self.models if model]
        if not models:
            yield
            return
        first, *rest = models
        needed = self.working_bytes(decoded)
        with told("loading the models of the finishing", first.load_device):
            load_on_device(first, needed, also_needed=[*rest, *others])
        with beside.with_models(models, needed):
            yield


NO_FINISHING = Finishing()


def told(work: str, device: torch.device) -> AbstractContextManager[None]:
    """A full device is told with what helps."""
    from liveavatar_runtime.device_kinds import shares_ram
    from liveavatar_runtime.out_of_memory import full_device_told

    caches = "kv_cache ram in DiT Sampler, where the caches are the largest part"
    ways = [
        "fewer finishing steps, or smaller models for them",
        "a smaller size in Clip Scheduler",
        *([] if shares_ram(device) else [caches]),
        "finishing the video after it is made, in a workflow of its own",
    ]
    return full_device_told(work, device, lambda: ways)


@dataclass(frozen=True)
class FinishedFacts:
    """What is told of finished frames: the warnings before a run, and what they are like."""

    warnings: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


def finished_facts(finishing: Finishing, plan: "ClipPlan", codec: str) -> FinishedFacts:
    """For the node; empty without steps. Raises InputError for steps that do not fit together."""
    from liveavatar_runtime.duration import format_fps
    from liveavatar_runtime.planning.estimates import file_rates
    from liveavatar_runtime.planning.kept_frames import decoded_shape

    chain = finishing.chain
    if not chain.steps:
        return FinishedFacts()
    decoded = decoded_shape(plan)
    shape = chain.shape(decoded)
    frames = plan.segment.frames * chain.frames_factor
    told = [f"Finishing: {', '.join(chain.told)}"]
    made = f"{shape.width}x{shape.height}, {format_fps(shape.fps)} fps, {frames} frames"
    if codec == "h264":
        size = file_rates(shape.width, shape.height).text(frames, float(frames / shape.fps))
        made += f", the file: about {size} at crf 18"
    told.append(f"Finished frames: {made}{', transparent' if shape.has_alpha else ''}")
    warnings = chain.warnings(decoded)
    if codec == "h264" and shape.width * shape.height > MOST_PLAYED:
        warnings.append(
            f"The finished frames are {shape.width}x{shape.height}. Above 4096x2304 most cards and phones do not play "
            "h264: choose codec hevc or av1, or a smaller width or height in Finish Upscale."
        )
    if chain.frames_factor > 1 and not _is_whole(plan):
        warnings.append(
            f"Frames between this segment and the next one are not made: the last frame is held for "
            f"{chain.frames_factor - 1} more. One long run has frames between them there."
        )
    return FinishedFacts(warnings, told)


def _is_whole(plan: "ClipPlan") -> bool:
    """Whether no segment follows this one."""
    return plan.segment.clips.stop >= plan.num_clip
