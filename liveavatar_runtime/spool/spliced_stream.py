"""SplicedStream: a video of which single clips are other takes, while the clips after them stay as they are."""

from functools import cached_property

import torch
from torch import Tensor

from ..sampling.run import LatentBlock
from .latent_stream import LatentStream
from .resume import clip_shape

LARGE_SEAM = 2.0
"""Times the step from a clip into the next may grow by another take before it is called a jump."""


class SplicedStream(LatentStream):
    """The blocks of a plan, but those of the clips in `takes` from streams of their own, each of its own branch.

    A take goes on from the clips before it, and what comes after it does not go on from it: its chain ends with it, so
    that nobody takes the video for one that was sampled in one go. Only one stream at a time has its caches.
    """

    @cached_property
    def takes(self) -> dict[int, LatentStream]:
        """By clip; filled by who makes the stream."""
        return {}

    @property
    def finished_clips(self) -> int:
        return sum(self._stream_of(clip).spool.has_clip(clip) for clip in self.segment.clips)

    def _stream_of(self, clip: int) -> LatentStream:
        return self.takes.get(clip, self)

    def _block(self, number: int) -> LatentBlock:
        clip, offset = divmod(number, self.plan.blocks_per_clip)
        take = self.takes.get(clip)
        if take is None:
            block = super()._block(number)
            if not offset and clip - 1 in self.takes:
                self._measure_seam(clip - 1, block.latents)
            return block
        if not offset:
            super()._stop()
        block = take._block(number)
        if offset + 1 == self.plan.blocks_per_clip:
            self._end(take)
        return block

    def _stop(self) -> None:
        for take in self.takes.values():
            self._end(take)
        super()._stop()

    def _end(self, take: LatentStream) -> None:
        take._stop()
        for text in take.news:
            self._tell(text)
        for text in take.facts:
            self._tell(text, expected=True)
        take.news, take.facts = [], []

    def _measure_seam(self, clip: int, after: Tensor) -> None:
        """Tell how much larger the step from a take into the clip after it is than from the take that it was made for.

        `after` [16, 3, h, w]: the first block of the clip after it.
        """
        shape = clip_shape(self.plan)
        taken, before = self.takes[clip].spool.read_clip(clip, shape), self.spool.read_clip(clip, shape)
        if taken is None or before is None:
            return
        steps = [float(torch.linalg.vector_norm(after[:, 0] - latents[:, -1])) for latents in (taken, before)]
        ratio = steps[0] / max(steps[1], torch.finfo(torch.float32).tiny)
        if ratio <= LARGE_SEAM:
            self._tell(
                f"Clip {clip + 1} alone is another take: the step into clip {clip + 2} is {ratio:.1f} times as large "
                "as before",
                expected=True,
            )
        else:
            self._tell(
                f"Clip {clip + 1} alone is another take, and the step into clip {clip + 2} is {ratio:.1f} times as "
                f"large as before: a jump may be seen there. To sample the clips after it anew as well, write "
                f"{clip + 1}- instead of {clip + 1} in takes"
            )
