"""The steps of a finishing one behind the other, frame by frame, so that memory holds few finished frames."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod

import torch
from torch import Tensor

from ..errors import MachineError
from .step import BlockFinisher, FinishingStep, FrameShape


@dataclass(frozen=True, eq=False)
class FinishingChain:
    """The steps, in the order in which frames go through them."""

    steps: tuple[FinishingStep, ...] = ()

    def and_then(self, step: FinishingStep) -> "FinishingChain":
        return FinishingChain((*self.steps, step))

    @property
    def frames_factor(self) -> int:
        """Frames in the file for each one that is decoded."""
        return prod(step.frames_factor for step in self.steps)

    @property
    def devices(self) -> set[torch.device]:
        """Those that the steps compute on."""
        return {device for step in self.steps for device in step.devices}

    @property
    def told(self) -> list[str]:
        """What the steps do."""
        return [step.told for step in self.steps]

    def shapes(self, decoded: FrameShape) -> list[FrameShape]:
        """Of the decoded frames and behind each step. Raises InputError for a step that cannot take what comes."""
        shapes = [decoded]
        for step in self.steps:
            shapes.append(step.shape(shapes[-1]))
        return shapes

    def shape(self, decoded: FrameShape) -> FrameShape:
        """Of the finished frames. Raises InputError as `shapes`."""
        return self.shapes(decoded)[-1]

    def warnings(self, decoded: FrameShape) -> list[str]:
        """What the steps leave out of frames of this shape."""
        found = (step.warning(before) for step, before in zip(self.steps, self.shapes(decoded), strict=False))
        return [warning for warning in found if warning]

    def begin(self, decoded: FrameShape, clock: Callable[[], float] = time.perf_counter) -> "FinishingRun":
        """For the frames of one video."""
        runs = [step.begin(before) for step, before in zip(self.steps, self.shapes(decoded), strict=False)]
        return FinishingRun(self.steps, runs, clock)


AS_DECODED = FinishingChain()


@dataclass(eq=False)
class FinishingRun:
    """A chain at work on one video. `seconds`: what its steps have taken.

    Pixels are float32 [3 or 4, T, H, W] in -1..1 on the CPU, as decoders give them, alpha included.
    """

    steps: Sequence[FinishingStep]
    finishers: Sequence[BlockFinisher]
    clock: Callable[[], float] = time.perf_counter
    seconds: float = field(default=0.0, init=False)

    def finish(self, pixels: Tensor) -> Iterator[Tensor]:
        """What becomes of the next frames, each as soon as it is made; how they are split changes nothing."""
        yield from self._through(pixels.add(1).div(2).clamp(0, 1), 0)

    def flush(self) -> Iterator[Tensor]:
        """The rest, once no frame follows."""
        for number, finisher in enumerate(self.finishers):
            rest = self._timed(finisher.flush)
            if rest is not None:
                yield from self._through(rest, number + 1)

    def _through(self, frames: Tensor, number: int) -> Iterator[Tensor]:
        """Frames in 0..1 through the steps from this one on. Each gets single frames."""
        if number == len(self.finishers):
            yield frames.mul(2).sub(1)
            return
        for frame in frames.unbind(1):
            made = self._timed(partial(self.finishers[number].finish, frame[:, None]))
            assert made is not None
            self._check(made, number)
            yield from self._through(made, number + 1)

    def _timed(self, work: Callable[[], Tensor | None]) -> Tensor | None:
        begun = self.clock()
        try:
            return work()
        finally:
            self.seconds += self.clock() - begun

    def _check(self, frames: Tensor, number: int) -> None:
        if not torch.isfinite(frames).all():
            raise MachineError(
                f"The finishing step {self.steps[number].name} made values that are not numbers, which would be black "
                "frames. Its model may not work in the precision that ComfyUI has chosen: start ComfyUI with "
                "--force-fp32, or choose another model."
            )
