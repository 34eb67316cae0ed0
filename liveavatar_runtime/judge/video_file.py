"""A video file before the judge: its frames and its sound are read one after the other, and never all at once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..duration import FRAMES_PER_BLOCK, samples_for_frames
from ..errors import InputError
from ..media.frames import opened, rgb_of
from ..media.parts import Part, PartSound, read_part, sound_stream
from ..sampling.plan import ClipPlan
from ..vae.online_decoder import START_FRAMES
from .judge import Judge, Judged
from .judgement import Judgement
from .voice import Loudness, LoudnessMeter


@dataclass(frozen=True)
class Clips:
    """Where a file's clips are. frames: of a clip, block: from one border inside it to the next; first: number of the
    file's first clip, from 0; skipped: frames that the first clip has fewer; starts: whether the video begins here;
    changes: clips in which a prompt or picture begins."""

    frames: int
    block: int = FRAMES_PER_BLOCK
    first: int = 0
    skipped: int = 0
    starts: bool = True
    changes: frozenset[int] = frozenset()

    @classmethod
    def of_plan(cls, plan: ClipPlan, file: Part) -> "Clips":
        """Those of a video of this plan, or of one of its segments, also with more frames in between.

        Raises InputError when the file is of another frame rate.
        """
        times = file.fps / plan.fps
        if times.denominator != 1 or not times.numerator:
            raise InputError(
                f"the video has {float(file.fps):g} frames a second and the plan {float(plan.fps):g}: this is not the "
                "plan's video. Connect its own plan, or none, and set infer_frames."
            )
        more, segment = times.numerator, plan.segment
        left_out = segment.frames * more - file.frames
        skipped = left_out if segment.starts_video and left_out == START_FRAMES * more else 0
        block = FRAMES_PER_BLOCK * more
        first, starts = segment.clips.start, segment.starts_video
        return cls(plan.infer_frames * more, block, first, skipped, starts, changed_clips(plan))


def changed_clips(plan: ClipPlan) -> frozenset[int]:
    """Those in which another prompt or picture begins."""
    new = (change.block for change in plan.script.changes if change.text or change.picture)
    return frozenset(plan.clip_of(block) for block in new)


@dataclass(frozen=True)
class Watched:
    """Called while a file is read: progress with the frames done and all of them, check to stop."""

    progress: Callable[[int, int], None] = lambda done, total: None
    check: Callable[[], None] = lambda: None


def file_facts(path: Path, name: str = "the video") -> Part:
    """What is in a file. Raises InputError when it is no video."""
    return read_part(name, path)


def judge_file(
    file: Part, clips: Clips, picture: np.ndarray | None, loudness: Loudness | None, watched: Watched
) -> Judgement:
    """The judgement of a file. picture: uint8 [H, W, 3] in the video's size; loudness: of another sound than the file's
    own, which begins with the file."""
    judged = Judged(
        file.fps,
        clips.frames,
        clips.block,
        first_frame=clips.first * clips.frames,
        skipped=clips.skipped,
        held=START_FRAMES if clips.starts and not clips.skipped else 0,
        picture=picture,
        changes=clips.changes,
    )
    hear = partial(file_loudness, file, watched.check) if loudness is None else (lambda: loudness)
    judge = Judge(judged, hear, sound_starts=judged.first_frame + judged.skipped)
    for frame in file_frames(file.path):
        judge.take(frame[None])
        if judge.frames % FRAMES_PER_BLOCK == 0:
            watched.check()
            watched.progress(judge.frames, file.frames)
    return Judgement.of(judge)


def file_frames(path: Path) -> Iterator[np.ndarray]:
    """uint8 [H, W, 3] of each frame."""
    with opened(path) as container:
        picture = container.streams.video[0]
        picture.thread_type = "AUTO"
        for frame in container.decode(picture):
            yield rgb_of(frame)


def file_loudness(file: Part, check: Callable[[], None] = lambda: None) -> Loudness:
    """Of the file's own sound; silence where it has none."""
    if file.sample_rate is None or file.channels is None:
        return Loudness(np.zeros(0, np.float32))
    meter = LoudnessMeter(file.sample_rate)
    samples = samples_for_frames(file.frames, file.fps, file.sample_rate)
    with opened(file.path) as container:
        sound: Any = PartSound(Fraction(file.start), samples, file.sample_rate, min(2, file.channels))
        for number, frame in enumerate(container.decode(sound_stream(container))):
            if number % 64 == 0:
                check()
            meter.add(sound.of_frame(frame))
        meter.add(sound.rest())
    return meter.loudness()
