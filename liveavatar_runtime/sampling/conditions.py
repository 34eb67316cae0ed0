"""What steers a video besides the plan: text, picture, motion history, voice, masks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from ..audio.voice import Voice


class FrameFeatures(Protocol):
    """Voice features by video frame, made on demand, so that a long track is never aligned as a whole."""

    def frames(self, first: int, count: int) -> Tensor:
        """Features of video frames [first, first + count): float32 [actors, layers, audio_dim, count]."""
        ...


class PoseLatents(Protocol):
    """Latents of a driving video by block, made on demand."""

    def latents(self, block: int) -> Tensor:
        """float32 [16, 3, h, w] in the model's space, on the CPU."""
        ...


@dataclass(frozen=True)
class AlignedAudio:
    """An encoded voice at a frame rate."""

    audio: "Voice"
    fps: Fraction

    def frames(self, first: int, count: int) -> Tensor:
        return self.audio.aligned(first, count, self.fps)


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Inputs of the model, on the CPU, latents in the model's space.

    text [L, text_dim]; reference [16, 1, h, w]; motion [16, 19, h, w], oldest first; actor_masks
    [actors, latent frames, rows, columns] on the token grid, of which a block uses the first three frames. `texts`,
    `pictures`: what replaces `text` and `reference` from a block on, where `ClipPlan.script` says so. `pose`: what
    moves the avatar besides its voice; `pose_key` names it.
    """

    text: Tensor
    reference: Tensor
    motion: Tensor
    audio: FrameFeatures
    actor_masks: Tensor | None = None
    texts: Mapping[int, Tensor] = field(default_factory=dict)
    pictures: Mapping[int, Tensor] = field(default_factory=dict)
    pose: PoseLatents | None = None
    pose_key: str = ""

    def text_since(self, block: int) -> Tensor:
        """The prompt that is in force from a block on, 0 for the one from the beginning."""
        return self.texts[block] if block else self.text

    def picture_since(self, block: int) -> Tensor:
        """The reference picture, likewise."""
        return self.pictures[block] if block else self.reference
