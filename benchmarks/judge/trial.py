"""One video before the judge: written to a file as Online VAE Decode writes it, and with faults."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.quality import BLOCK, CLIP, RATE
from liveavatar_runtime.judge.checks import CHECKS
from liveavatar_runtime.judge.judge import Judge, Judged
from liveavatar_runtime.judge.judgement import Judgement
from liveavatar_runtime.judge.video_file import Clips, Watched, file_facts, file_frames, judge_file
from liveavatar_runtime.judge.voice import Loudness
from liveavatar_runtime.media.images import fit_picture
from liveavatar_runtime.media.video import AudioTrack, PictureTrack, VideoWriter
from liveavatar_runtime.vae.online_decoder import START_FRAMES

from .faults import FAULTS, Faulty, Place
from .videos import CLIPS, Video

CLEAN = "none"


@dataclass(frozen=True)
class Trial:
    """What was put in and what was found. `values`: of each clip and check. Clips count from 0."""

    fault: str
    size: int
    lasts: bool
    found_in: frozenset[int]
    touched: frozenset[int]
    flagged: dict[int, tuple[str, ...]]
    values: dict[int, dict[str, float | None]]

    @property
    def is_found(self) -> bool:
        return bool(self.found_in & set(self.flagged))

    @property
    def untouched(self) -> list[int]:
        return [clip for clip in self.values if clip not in self.touched]

    @property
    def false_alarms(self) -> list[int]:
        return [clip for clip in self.untouched if clip in self.flagged]


def through_file(video: Video, folder: Path) -> tuple[Video, Judgement]:
    """A video as it comes out of a file of h264 with crf 18, and what the node's code says of that file."""
    path = folder / "judged.mp4"
    picture = PictureTrack(64, 64, video.recipe.fps, "h264", "auto", 18)
    with VideoWriter(path, picture, AudioTrack(RATE, 1)) as writer:
        writer.write_frames(torch.from_numpy(video.frames))
        writer.write_audio(torch.from_numpy(video.voice))
    found = judge_file(file_facts(path), Clips(CLIP), shown_picture(video), None, Watched())
    return replace(video, frames=np.stack(list(file_frames(path)))), found


def shown_picture(video: Video) -> np.ndarray:
    """In the video's size."""
    return fit_picture(video.picture, 64, 64).add(1).mul(127.5).round().byte().permute(1, 2, 0).numpy()


def judged(video: Video) -> Judgement:
    """Frames and voice that are in memory."""
    told = Judged(video.recipe.fps, CLIP, BLOCK, held=START_FRAMES, picture=shown_picture(video))
    judge = Judge(told, partial(Loudness.of, video.voice, RATE))
    judge.take(video.frames)
    return Judgement.of(judge)


def trial_of(found: Judgement, faulty: Faulty | None = None, what: tuple[str, int, bool] = (CLEAN, 0, False)) -> Trial:
    """`what`: the fault's name, its size, and whether it lasts."""
    flagged = {clip: tuple(check.name for check in checks) for clip, checks in found.faults.items()}
    values = {clip.clip: {check.name: check.value(clip.measures) for check in CHECKS} for clip in found.clips}
    touched = faulty.touched if faulty is not None else frozenset[int]()
    return Trial(*what, faulty.found_in if faulty is not None else frozenset(), touched, flagged, values)


def trials(video: Video, number: int, each: int, folder: Path) -> Iterator[Trial]:
    """Without a fault, and with each fault `each` times: the sizes take turns from video to video, at random clips, and
    every other fault lasts until the end."""
    video, found = through_file(video, folder)
    yield trial_of(found)
    for fault_number, fault in enumerate(FAULTS):
        for turn in range(each):
            rng = np.random.default_rng([93, video.recipe.person, fault_number, turn])
            count = number * each + turn
            size, lasts = fault.sizes[count // 2 % len(fault.sizes)], bool(count % 2)
            # What lasts has clips before it; where a block is missing, the next clip is the first one out of time.
            clips = range(1, CLIPS - 1) if lasts else range(CLIPS)
            faulty = fault.make(video, Place(int(rng.choice(clips)), lasts, size, rng))
            yield trial_of(judged(faulty.video), faulty, (fault.name, size, lasts))
