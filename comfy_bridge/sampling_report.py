"""What a user is told while DiT Sampler's blocks are sampled: one line that changes, and warnings above it.

The line goes to the page that runs the prompt as a message of its own, with its numbers, since ComfyUI's progress text
has neither numbers nor a place for warnings. What is left of it at the end stands in the `ui` of the node that takes
the blocks.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import torch

from liveavatar_runtime.sampling.pace import DeviceMemory, Pace, PaceMeter, pace_text, sampled_text
from liveavatar_runtime.sampling.plan import ClipPlan

from .comfy_types import Hidden
from .memory import used_memory
from .messages_to_page import PageOfRun, workflow_of

if TYPE_CHECKING:
    from liveavatar_runtime.spool.latent_stream import LatentStream

EVENT = "liveavatar.pace"
"""Name of the message; `web/pace.js` listens to it."""


class SamplingReport:
    """Of all runs of one stream. devices: those of this process that sample."""

    def __init__(self, hidden: Hidden, devices: Sequence[torch.device]) -> None:
        self.node_id, self._workflow = hidden.unique_id, workflow_of(hidden)
        self._devices = tuple(dict.fromkeys(devices))
        self._meters: list[PaceMeter] = []
        self._stream: LatentStream | None = None
        self._page = PageOfRun()

    def follow(self, stream: "LatentStream") -> None:
        """Tell what this stream says that the user would not expect."""
        self._stream = stream

    def meter(self, plan: ClipPlan) -> PaceMeter:
        """For a run of the stream that begins now."""
        self._meters.append(PaceMeter(plan, self._memory))
        return self._meters[-1]

    def show(self, pace: Pace) -> None:
        self._tell(pace_text(pace), pace)

    def lines(self) -> list[str]:
        """What was sampled and how fast; nothing when all came from the disk. The page is told as well."""
        paces = [meter.latest for meter in self._meters if meter.latest is not None]
        blocks = sum(meter.blocks for meter in self._meters)
        if not blocks:
            return []
        whole = replace(paces[-1], elapsed_seconds=sum(pace.elapsed_seconds for pace in paces))
        text = sampled_text(whole, blocks)
        self._tell(text, whole)
        return [text]

    def _memory(self) -> list[DeviceMemory]:
        return [memory for device in self._devices if (memory := used_memory(device)) is not None]

    def _tell(self, text: str, pace: Pace) -> None:
        warnings = list(self._stream.news) if self._stream is not None else []
        about = {"node": self.node_id, "workflow": self._workflow, "text": text, "warnings": warnings}
        self._page.tell(EVENT, {**about, "pace": asdict(pace)})
