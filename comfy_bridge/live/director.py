"""What is asked of a live session becomes what the model takes, in ComfyUI's thread, between two blocks."""

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from liveavatar_runtime.duration import FRAMES_PER_BLOCK
from liveavatar_runtime.errors import InputError, MachineError, handled
from liveavatar_runtime.live.directed import Directed, Encoded

from ..input_files import input_file
from ..prompt_input import read_prompt
from ..vae import ManagedVAE
from .session import LiveSession

if TYPE_CHECKING:
    from torch import Tensor

    from liveavatar_runtime.config import AvatarConfig
    from liveavatar_runtime.live.control import Wishes
    from liveavatar_runtime.sampling.plan import ClipPlan

HOLDER = "the prompt of the live page"


@dataclass(eq=False)
class Director:
    """`first_block`: of the session, whose video begins with it."""

    session: LiveSession
    config: "AvatarConfig"
    vae: ManagedVAE
    plan: "ClipPlan"
    first_block: int = 0

    def is_asked(self, next_block: int) -> bool:
        return self.session.control.is_asked(self._end_of(next_block))

    def direct(self, directed: Directed, block: int) -> Directed:
        """What is sampled from a block on. What cannot be read is told, and nothing of it changes."""
        wishes = self.session.control.take(self._end_of(block))
        changed = [directed]

        def apply() -> None:
            changed.append(directed.changed(block, self._encoded(wishes)))

        with handled((InputError, MachineError), lambda error: self.session.say(f"Nothing was changed: {error}")):
            apply()
        return changed[-1]

    def _end_of(self, block: int) -> Fraction:
        """Seconds of the video until the middle of a block, so that a line begins with the nearest one."""
        blocks = Fraction(2 * (block - self.first_block) + 1, 2)
        return blocks * FRAMES_PER_BLOCK / self.plan.fps

    def _encoded(self, wishes: "Wishes") -> Encoded:
        return Encoded(
            text=None if wishes.prompt is None else self._text(wishes.prompt),
            reference=None if wishes.picture is None else self._reference(wishes.picture),
            seed=wishes.seed,
            motion=wishes.motion_strength,
        )

    def _text(self, prompt: str) -> "Tensor":
        clip = self.session.clip
        if clip is None:
            raise InputError("nothing encodes another prompt: connect clip to Live Voice")
        read = read_prompt(clip.encode_from_tokens_scheduled(clip.tokenize(prompt)), self.config.text_len, HOLDER)
        for warning in read.warnings:
            self.session.say(warning)
        return read.text

    def _reference(self, name: str) -> "Tensor":
        from liveavatar_runtime.media.images import picture_of_file
        from liveavatar_runtime.sampling.prepare import encode_reference

        return encode_reference(self.vae.on_device(), picture_of_file(input_file(name)), self.plan)
