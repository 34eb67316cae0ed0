"""What a block of a run takes in besides noise: its voice and, of a video that is driven, its pose."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from liveavatar_runtime.duration import FRAMES_PER_BLOCK


@dataclass(frozen=True)
class BlockInput:
    """Voice features float32 [actors, layers, audio_dim, frames], pose latents float32 [16, 3, h, w]."""

    audio: Tensor
    pose: Tensor | None = None


class BlockInputs:
    """The voice of a run's conditions on a rank, and their pose if the run is `driven`. Both come in one message, for
    which `ask` is called with the first frame and their number; of what is asked first the other is kept."""

    def __init__(self, ask: Callable[[int, int], BlockInput], driven: bool) -> None:
        self._ask, self._driven = ask, driven
        self._voices: dict[int, Tensor] = {}
        self._poses: dict[int, Tensor] = {}

    def frames(self, first: int, count: int) -> Tensor:
        if first in self._voices:
            return self._voices.pop(first)
        got = self._ask(first, count)
        if self._driven and got.pose is not None:
            self._poses[first] = got.pose
        return got.audio

    def latents(self, block: int) -> Tensor:
        first = block * FRAMES_PER_BLOCK
        if first in self._poses:
            return self._poses.pop(first)
        got = self._ask(first, FRAMES_PER_BLOCK)
        assert got.pose is not None, "a driven run's messages have poses"
        self._voices[first] = got.audio
        return got.pose
