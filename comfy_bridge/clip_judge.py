"""Clip Judge at work: a finished video is looked through clip by clip, with nothing to compare it with but itself."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from liveavatar_runtime.judge.chart import draw_judgement
from liveavatar_runtime.judge.judgement import Again, Judgement, numbers_text
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.plan_request import PlanRequest

from .audio_input import read_audio
from .comfy_types import Video
from .folders import temporary_folder
from .notes import Notes
from .progress import NodeProgress, stop_if_interrupted
from .run_judge import fitted
from .video_join import file_of

if TYPE_CHECKING:
    from liveavatar_runtime.judge.video_file import Clips
    from liveavatar_runtime.judge.voice import Loudness
    from liveavatar_runtime.media.parts import Part

EACH, ONWARDS = "each clip alone", "all from the first one"
AGAIN = (EACH, ONWARDS)
"""Which clips are made again, in `takes`."""


@dataclass(frozen=True, eq=False)
class JudgeInputs:
    """What is connected to Clip Judge; image and audio as they come, from whatever node."""

    video: Video
    image: object = None
    audio: object = None
    plan: PlanRequest | ClipPlan | None = None


@dataclass(frozen=True, eq=False)
class Judged:
    """judgement; clips: "3, 7-9"; takes: what Clip Scheduler's `takes` takes to make them again; chart: an IMAGE [1, H,
    W, 3] of 0..1."""

    judgement: Judgement
    clips: str
    takes: str
    chart: Tensor


def judge_video(inputs: JudgeInputs, infer_frames: int, again: str, node_id: str, notes: Notes) -> Judged:
    """Reads the file once, frame by frame. The notes say which clips look wrong.

    Raises InputError for a video that cannot be read, and for a plan of another frame rate.
    """
    from liveavatar_runtime.judge.video_file import Watched, file_facts, judge_file

    with temporary_folder() as folder:
        file = file_facts(file_of(inputs.video, "judged", folder))
        clips = clips_of(inputs.plan, file, infer_frames)
        picture = shown_picture(inputs.image, file.height, file.width, notes)
        progress = NodeProgress(node_id, file.frames)
        watched = Watched(lambda done, _: progress.advance_to(done), stop_if_interrupted)
        judgement = judge_file(file, clips, picture, loudness_of(inputs.audio, notes), watched)
        progress.advance_to(file.frames)
    takes = () if inputs.plan is None else plan_of(inputs.plan).takes
    wrong = list(judgement.faults)
    text = Again(again == ONWARDS, takes).text(wrong)
    tell(judgement, text, notes)
    return Judged(judgement, numbers_text(wrong), text, as_image(judgement))


def tell(judgement: Judgement, takes: str, notes: Notes) -> None:
    """The findings, on the node."""
    if judgement.faults:
        notes.warn(judgement.headline)
        notes.tell(*judgement.told(), f"To make them again, set takes of Clip Scheduler to {takes}")
    else:
        notes.tell(judgement.headline)
    notes.tell(*judgement.notes())


def plan_of(plan: PlanRequest | ClipPlan) -> ClipPlan:
    return plan if isinstance(plan, ClipPlan) else plan.plan


def clips_of(plan: PlanRequest | ClipPlan | None, file: "Part", infer_frames: int) -> "Clips":
    """Where the clips of a file are: by its plan, else so many frames each."""
    from liveavatar_runtime.judge.video_file import Clips

    if plan is None:
        return Clips(infer_frames)
    return Clips.of_plan(plan_of(plan), file)


def shown_picture(image: object, height: int, width: int, notes: Notes) -> np.ndarray | None:
    """The picture as the video shows it, uint8 [height, width, 3]."""
    from liveavatar_runtime.media.images import read_picture

    if image is None:
        return None
    picture, changes = read_picture(image)
    notes.warn(*changes)
    return fitted(picture, height, width)


def loudness_of(audio: object, notes: Notes) -> "Loudness | None":
    """Of a sound that is given instead of the file's own."""
    from liveavatar_runtime.judge.voice import Loudness

    if audio is None:
        return None
    sound = read_audio(audio)
    notes.warn(*sound.changes)
    return Loudness.of(sound.waveform.numpy(), sound.sample_rate)


def as_image(judgement: Judgement) -> Tensor:
    """The chart, [1, H, W, 3] of 0..1."""
    return torch.from_numpy(np.asarray(draw_judgement(judgement), dtype=np.float32) / 255)[None]
