"""The clip judge beside a run: it looks at the decoded blocks as they come, for the report and the strip of clips."""

import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from liveavatar_runtime.errors import handled
from liveavatar_runtime.judge.judge import Judge, Judged
from liveavatar_runtime.judge.judgement import Judgement
from liveavatar_runtime.judge.voice import Loudness
from liveavatar_runtime.sampling.plan import ClipPlan

from .progress import log

if TYPE_CHECKING:
    from liveavatar_runtime.online_video import BlockDecoder, RemoteDecoding

    from .avatar import AvatarLatents


@dataclass(eq=False)
class RunJudge:
    """Judges the frames of one run. `skipped`: leading frames that are left out.

    seconds: processor time that it took, of the thread that decodes. problem: why it gave up, or "": a video is not
    lost for it.
    """

    latents: "AvatarLatents"
    skipped: int
    seconds: float = 0.0
    problem: str = ""
    _judge: Judge | None = None
    _judgement: Judgement | None = field(default=None, init=False)

    def watch(self, decoder: "BlockDecoder") -> "BlockDecoder":
        """A decoder that does the same, and shows the judge what it has decoded."""
        from liveavatar_runtime.online_video import OnDevice, RemoteDecoding

        if isinstance(decoder, RemoteDecoding):
            return WatchedRemote(decoder, self)
        return WatchedHere(decoder, self) if isinstance(decoder, OnDevice) else Watched(decoder, self)

    def take(self, pixels: Tensor) -> Tensor:
        """Decoded frames [3, n, H, W] in -1..1, which are given back as they are."""
        begun = time.thread_time()
        with handled(Exception, self._give_up):
            self._take(pixels)
        self.seconds += time.thread_time() - begun
        return pixels

    def judgement(self, written: int) -> Judgement | None:
        """Of the clips of which the file has `written` frames, when no more come; None without any, or where it gave
        up. A run that is stopped may have decoded more."""
        if self._judgement is None and self._judge is not None and self._judge.frames and not self.problem:
            with handled(Exception, self._give_up):
                self._judgement = Judgement.of(self._judge)
        if self._judgement is None or not written:
            return None
        plan = self.latents.stream.plan
        end = plan.segment.first_frame + self.skipped + written
        kept = (clip for clip in self._judgement.clips if clip.clip * plan.infer_frames < end)
        return replace(self._judgement, clips=tuple(kept))

    def _take(self, pixels: Tensor) -> None:
        from liveavatar_runtime.media.images import to_uint8_frames

        if self.problem:
            return
        plan = self.latents.stream.plan
        judge = self._judge = self._judge or self._new_judge(plan)
        shown = pixels[:, : max(0, plan.segment.frames - self.skipped - judge.frames)]
        if shown.shape[1]:
            judge.take(to_uint8_frames(shown).numpy())

    def _new_judge(self, plan: ClipPlan) -> Judge:
        from liveavatar_runtime.duration import FRAMES_PER_BLOCK
        from liveavatar_runtime.judge.video_file import changed_clips
        from liveavatar_runtime.vae.online_decoder import START_FRAMES

        picture, starts = self.latents.picture, plan.segment.starts_video
        judged = Judged(
            plan.fps,
            plan.infer_frames,
            FRAMES_PER_BLOCK,
            first_frame=plan.segment.first_frame,
            skipped=self.skipped,
            held=START_FRAMES if starts and not self.skipped else 0,
            picture=None if picture is None else fitted(picture, plan.height, plan.width),
            changes=changed_clips(plan),
        )
        voice = self.latents.audio
        return Judge(judged, partial(Loudness.of, voice.waveform.numpy(), voice.sample_rate))

    def _give_up(self, error: Exception) -> None:
        self.problem = f"The clip judge could not look at this video ({type(error).__name__}: {error})"
        log.warning("%s", self.problem, exc_info=error)


def fitted(picture: Tensor, height: int, width: int) -> np.ndarray:
    """A picture [H, W, C] of 0..1 as a video of that size shows it, uint8 [height, width, 3]."""
    from liveavatar_runtime.media.images import fit_picture

    shown = fit_picture(picture, height, width).add(1).mul(127.5).round().to(torch.uint8)
    return shown.permute(1, 2, 0).contiguous().numpy()


@dataclass(eq=False)
class Watched:
    """A decoder whose frames a judge sees."""

    decoder: "BlockDecoder"
    judge: RunJudge

    def decode(self, latents: Tensor) -> Tensor:
        return self.judge.take(self.decoder.decode(latents))


@dataclass(eq=False)
class WatchedHere(Watched):
    """One that says where it computes."""

    @property
    def device(self) -> torch.device:
        from liveavatar_runtime.online_video import OnDevice

        assert isinstance(self.decoder, OnDevice)
        return self.decoder.device


@dataclass(eq=False)
class WatchedRemote:
    """One in another process."""

    decoder: "RemoteDecoding"
    judge: RunJudge

    def decode(self, latents: Tensor) -> Tensor:
        return self.take(self.ask(latents))

    def ask(self, latents: Tensor) -> object:
        return self.decoder.ask(latents)

    def take(self, asked: object) -> Tensor:
        return self.judge.take(self.decoder.take(asked))

    def close(self) -> None:
        self.decoder.close()
