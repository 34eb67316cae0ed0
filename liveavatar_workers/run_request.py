"""The message that asks workers for a run of blocks."""

from collections.abc import Iterable, Mapping

import msgspec
from torch import Tensor

from liveavatar_runtime.config import AvatarConfig
from liveavatar_runtime.dit.placement import ON_DEVICE, Placement
from liveavatar_runtime.duration import LATENT_FRAMES_PER_BLOCK
from liveavatar_runtime.latent_space import CHANNELS
from liveavatar_runtime.sampling.conditions import Conditions, FrameFeatures, PoseLatents
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import RunStart

from .checks import check_finite, check_tensor
from .message import Count, Message


class RunRequest(Message, tag="run"):
    """A run without its voice, which follows block by block, so that memory does not grow with its length.

    `kept_rings`: blocks after which the state is wanted; `rings`: how many `Ring` messages follow, the state that the
    run begins with; `placement`: of the caches on every rank; `driven`: whether poses come with the voice.
    """

    number: Count
    plan: ClipPlan
    first_block: Count
    kept_rings: list[Count]
    rings: Count | None
    placement: Placement
    text: Tensor
    reference: Tensor
    motion: Tensor
    actor_masks: Tensor | None
    first_frames: dict[Count, Tensor]
    texts: dict[Count, Tensor] = {}
    pictures: dict[Count, Tensor] = {}
    driven: bool = False

    @classmethod
    def of(
        cls, number: int, conditions: Conditions, plan: ClipPlan, start: RunStart, kept_rings: Iterable[int]
    ) -> "RunRequest":
        """With the caches on the devices; `on` puts them elsewhere."""
        return cls(
            number=number,
            plan=plan,
            first_block=start.first_block,
            kept_rings=sorted(kept_rings),
            rings=None if start.rings is None else len(start.rings),
            placement=ON_DEVICE,
            text=conditions.text,
            reference=conditions.reference,
            motion=conditions.motion,
            actor_masks=conditions.actor_masks,
            first_frames=dict(start.first_frames),
            texts=dict(conditions.texts),
            pictures=dict(conditions.pictures),
            driven=conditions.pose is not None,
        )

    def on(self, placement: Placement) -> "RunRequest":
        return msgspec.structs.replace(self, placement=placement)

    def check(self) -> None:
        check_finite("plan", self.plan)
        height, width = self.plan.latent_size
        check_tensor("text", self.text, None, None)
        check_tensor("reference", self.reference, CHANNELS, 1, height, width)
        check_tensor("motion", self.motion, CHANNELS, None, height, width)
        if self.actor_masks is not None:
            check_tensor("actor_masks", self.actor_masks, None, None, *self.plan.grid)
            if self.actor_masks.shape[1] < LATENT_FRAMES_PER_BLOCK:
                raise ValueError(f"actor_masks has {self.actor_masks.shape[1]} frames; a block uses three")
        for block, frame in self.first_frames.items():
            check_tensor(f"first_frames[{block}]", frame, CHANNELS, 1, height, width)
        self._check_script(height, width)

    def _check_script(self, height: int, width: int) -> None:
        changes = self.plan.script.changes
        for block, text in self.texts.items():
            check_tensor(f"texts[{block}]", text, None, None)
        for block, picture in self.pictures.items():
            check_tensor(f"pictures[{block}]", picture, CHANNELS, 1, height, width)
        if {c.block for c in changes if c.text} != self.texts.keys():
            raise ValueError(f"texts begin at {sorted(self.texts)}; the plan's script says otherwise")
        if {c.block for c in changes if c.picture} != self.pictures.keys():
            raise ValueError(f"pictures begin at {sorted(self.pictures)}; the plan's script says otherwise")

    @property
    def actors(self) -> int | None:
        """As many as there are masks; None: as many as the voice has."""
        return None if self.actor_masks is None else self.actor_masks.shape[0]

    @property
    def pose_size(self) -> tuple[int, int] | None:
        """(height, width) of the poses' latents."""
        return self.plan.latent_size if self.driven else None

    def check_for(self, config: AvatarConfig) -> None:
        """Raises ValueError for conditions of another model."""
        for text in (self.text, *self.texts.values()):
            check_tensor("text", text, None, config.text_dim)
        check_tensor("motion", self.motion, CHANNELS, config.motion_frames[1], None, None)

    def conditions(self, audio: FrameFeatures, pose: PoseLatents) -> Conditions:
        """With the sources of voice and pose, which a run that is not driven leaves alone."""
        return Conditions(
            text=self.text,
            reference=self.reference,
            motion=self.motion,
            audio=audio,
            actor_masks=self.actor_masks,
            texts=self.texts,
            pictures=self.pictures,
            pose=pose if self.driven else None,
        )

    def start(self, rings: Mapping[str, Tensor] | None) -> RunStart:
        return RunStart(self.first_block, self.first_frames, rings)
