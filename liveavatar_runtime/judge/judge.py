"""The judge: takes a video's frames as they come, and measures it clip by clip."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property

import numpy as np

from .face_region import RegionFinder
from .measures import ClipMeasures
from .mouth import NOTHING, MouthFound, Talk, find_mouth, judge_mouth
from .reference import UNSETTLED, Reference, small_picture
from .signs import SHARPNESS_STEP, FrameSigns, SignReader, Signs, sharpness_of, together
from .steps import STILL, Course, judge_steps
from .voice import Loudness

AROUND = 8
"""Clips that the usual is learned from: the first ones, later the newest. Only these are kept."""
LOOK_EVERY = 4
"""Clips from one search for the face to the next."""


@dataclass(frozen=True, eq=False)
class Judged:
    """What is judged. first_frame: of the whole video's frames, the first that comes; skipped: frames of the first clip
    that are left out before it; block: frames from one border to the next; picture: uint8 [H, W, 3] in the video's
    size; changes: clips in which a prompt or a picture begins, whose colours and person are new. Clips are counted over
    the whole video, from 0."""

    fps: Fraction
    clip_frames: int
    block: int
    first_frame: int = 0
    skipped: int = 0
    held: int = 0
    """Frames at the start that repeat the first one on purpose."""
    picture: np.ndarray | None = None
    changes: frozenset[int] = frozenset()


@dataclass(frozen=True)
class MeasuredClip:
    """A clip, counted from 0 over the whole video, with its number of frames."""

    clip: int
    frames: int
    measures: ClipMeasures


@dataclass(eq=False)
class _Clip:
    """One whose frames are complete."""

    number: int
    first: int
    signs: Signs
    last: Signs | None


@dataclass(frozen=True)
class Usual:
    """Of the clips around: the step from frame to frame, and the correlation of mouth and voice."""

    step: float
    sync: float | None


@dataclass(eq=False)
class Judge:
    """Frames in, measures out; `AROUND` clips are kept, so that memory does not grow with the video.

    What comes out does not depend on how many frames come at a time.
    """

    judged: Judged
    hear: Callable[[], Loudness]
    """Called once, when the first clips are measured."""
    sound_starts: int = 0
    """Frame of the whole video at which the sound begins."""
    regions: RegionFinder = field(default_factory=RegionFinder)
    measured: list[MeasuredClip] = field(default_factory=list)
    frames: int = 0
    _reader: SignReader = field(default_factory=SignReader)
    _open: list[FrameSigns] = field(default_factory=list)
    _sharpness: list[float] = field(default_factory=list)
    _around: deque[_Clip] = field(default_factory=lambda: deque(maxlen=AROUND))
    _waiting: int = 0
    _closed: int = 0
    _reference: Reference | None = None
    _last: Signs | None = None

    @cached_property
    def loudness(self) -> Loudness:
        return self.hear()

    def take(self, frames: np.ndarray) -> None:
        """uint8 [n, H, W, 3]: the next ones."""
        for frame in frames:
            self._take(frame)

    def finish(self) -> list[MeasuredClip]:
        """All clips, when no frame comes any more; the last one may be shorter."""
        if self._open:
            self._close_clip()
        self._measure_waiting()
        return self.measured

    def _take(self, frame: np.ndarray) -> None:
        if not self._open and self._closed % LOOK_EVERY == 0:
            self.regions.look(frame, self.judged.picture)
        self._open.append(self._reader.read(frame, self.regions.region))
        if (len(self._open) - 1) % SHARPNESS_STEP == 0:
            self._sharpness.append(sharpness_of(frame))
        self.frames += 1
        if len(self._open) == self._clip_length():
            self._close_clip()

    def _clip_length(self) -> int:
        """Of the clip that is open."""
        done = self._around[-1].number + 1 if self._around else None
        return self.judged.clip_frames - (self.judged.skipped if done is None else 0)

    def _close_clip(self) -> None:
        judged, signs = self.judged, together(self._open, self._sharpness, self.judged.block)
        number = self._around[-1].number + 1 if self._around else judged.first_frame // judged.clip_frames
        first = judged.first_frame + judged.skipped + self.frames - len(self._open)
        self._around.append(_Clip(number, first, signs, self._last))
        self._open, self._sharpness, self._last = [], [], signs
        self._waiting, self._closed = self._waiting + 1, self._closed + 1
        if len(self._around) == AROUND:
            self._measure_waiting()

    def _measure_waiting(self) -> None:
        """The newest clips, by what is usual around them."""
        if not self._waiting:
            return
        clips = list(self._around)
        if self._reference is None:
            self._reference = self._new_reference(clips)
        talks = [self._talk(clip) for clip in clips]
        mouth = find_mouth(talks) if self.loudness.loud else None
        found = [NOTHING if mouth is None else judge_mouth(talk, mouth) for talk in talks]
        usual = Usual(_usual_step(clips), _usual_sync(found))
        for clip, of_mouth in list(zip(clips, found, strict=True))[-self._waiting :]:
            if clip.number in self.judged.changes:
                self._reference = Reference.of([clip.signs], None)
            measures = self._measures(clip, of_mouth, usual)
            self.measured.append(MeasuredClip(clip.number, len(clip.signs.steps), measures))
        self._waiting = 0

    def _unsettled(self, clip: _Clip) -> int:
        """First frames of a clip in which a new prompt may change the colours."""
        begins = clip.last is None and not self.judged.first_frame
        return UNSETTLED * self.judged.block if begins or clip.number in self.judged.changes else 0

    def _new_reference(self, clips: list[_Clip]) -> Reference:
        picture, region = self.judged.picture, self.regions.region
        small = None if picture is None else small_picture(picture, region)
        return Reference.of([clip.signs for clip in clips], small)

    def _talk(self, clip: _Clip) -> Talk:
        return Talk(clip.signs.grey, clip.first - self.sound_starts, self.judged.fps, self.loudness)

    def _measures(self, clip: _Clip, mouth: MouthFound, usual: Usual) -> ClipMeasures:
        signs, reference = clip.signs, self._reference
        assert reference is not None
        unsettled = self._unsettled(clip)
        course = Course.of(_without_held(clip, self.judged.held), clip.last, usual.step, self.judged.block)
        course = replace(course, unsettled=unsettled)
        steps = judge_steps(course)
        return ClipMeasures(
            **vars(mouth),
            usual_sync=usual.sync,
            **vars(steps),
            likeness=reference.likeness(signs),
            picture=reference.to_picture(signs),
            colour=reference.colour(signs, unsettled),
            sharpness=signs.sharpness / reference.sharpness if reference.sharpness > 0 else None,
        )


def _without_held(clip: _Clip, held: int) -> Signs:
    """Steps between frames that are equal on purpose are none."""
    if clip.last is not None or not held:
        return clip.signs
    steps = clip.signs.steps.copy()
    steps[: held + 1] = np.inf
    return Signs(clip.signs.grey, clip.signs.colours, steps, clip.signs.likeness, clip.signs.sharpness)


def _usual_sync(found: list[MouthFound]) -> float | None:
    """Of the better clips: others may be those that went wrong."""
    values = [one.sync for one in found if one.sync is not None]
    return float(np.quantile(values, 0.75)) if values else None


def _usual_step(clips: list[_Clip]) -> float:
    """Of frames that do not repeat the one before."""
    steps = np.concatenate([clip.signs.steps for clip in clips])
    steps = steps[np.isfinite(steps)]
    if not len(steps):
        return 0.0
    return float(np.median(steps[steps >= STILL * np.quantile(steps, 0.75)]))
