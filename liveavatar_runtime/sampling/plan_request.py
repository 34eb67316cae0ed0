"""What a user asks for before the voice is known, and the plan that it becomes with a voice."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..duration import check_num_clip, check_segment, clips_for_frames, format_duration, format_fps, segment_clips
from ..errors import InputError
from .plan import ClipPlan

if TYPE_CHECKING:
    from ..audio.voice import Voice

AS_MANY_AS_THE_VOICE_NEEDS = 0
"""The number of clips with which a user leaves it to the voice."""

End = Literal["clip", "voice"]
ENDS: tuple[End, ...] = get_args(End)


@dataclass(frozen=True)
class PlanRequest:
    """A plan whose end the voice may decide.

    `plan`: the whole plan; when `follows_voice`, with as many clips as its segment needs, since the voice gives the
    real number. `end`: "clip" ends the video with a whole clip, "voice" with the frame in which the voice's last sample
    is heard.
    """

    plan: ClipPlan
    follows_voice: bool = False
    end: End = "clip"

    def __post_init__(self) -> None:
        if self.end not in ENDS:
            raise InputError(f"end is {self.end!r}; allowed are {', '.join(ENDS)}")

    @classmethod
    def of(cls, num_clip: int, end: End = "clip", **fields: Any) -> "PlanRequest":
        """From a number of clips, 0 for as many as the voice needs, and the other fields of `ClipPlan`.

        Raises InputError for values that no voice makes possible.
        """
        if num_clip < AS_MANY_AS_THE_VOICE_NEEDS:
            raise InputError(f"num_clip is {num_clip}. Use 1 or more, or 0 for as many clips as the voice needs.")
        follows_voice = num_clip == AS_MANY_AS_THE_VOICE_NEEDS
        if follows_voice:
            length, index = fields.get("segment_clips", 0), fields.get("segment_index", 0)
            check_segment(length, index)
            num_clip = max(1, length * (index + 1))
        return cls(ClipPlan(num_clip=check_num_clip(num_clip), **fields), follows_voice, end)

    def for_voice(self, frames: int) -> ClipPlan:
        """The plan for a voice of `frames` frames (`Voice.video_frames`): never more clips than it fills.

        Raises InputError when the segment begins after the voice's last clip.
        """
        plan = self.plan
        needed = clips_for_frames(frames, plan.infer_frames)
        num_clip = needed if self.follows_voice else min(plan.num_clip, needed)
        filled_by = "the voice" if num_clip == needed else "num_clip"
        segment_clips(num_clip, plan.segment_clips, plan.segment_index, filled_by)
        cut = num_clip * plan.infer_frames - frames if self.end == "voice" and num_clip == needed else 0
        return replace(plan, num_clip=num_clip, cut_frames=cut)

    def for_live_voice(self) -> ClipPlan:
        """The plan for a voice that comes while it is spoken: without an end, or of as many clips as were asked for.

        Raises InputError for segments and takes, which a voice that does not come again cannot have.
        """
        plan = self.plan
        if plan.segment_clips or plan.takes:
            given = "segment_clips" if plan.segment_clips else "takes"
            raise InputError(
                f"{given} of Clip Scheduler is set, and a live voice does not come a second time. Set it to nothing, "
                "or record the session and use Audio Encode."
            )
        return plan.without_end() if self.follows_voice else plan


@dataclass(frozen=True)
class VoicedPlan:
    """A plan with its voice's length taken in, and what the user is to read: what is not as asked, and facts.

    `was_open`: whether the number of clips became known with the voice.
    """

    plan: ClipPlan
    was_open: bool = False
    warnings: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()

    @classmethod
    def of(cls, asked: PlanRequest | ClipPlan, audio: "Voice") -> "VoicedPlan":
        """A `ClipPlan` is a request whose end no voice decides. Raises InputError when the segment that is asked for
        begins after the voice's last clip."""
        request = PlanRequest(asked) if isinstance(asked, ClipPlan) else asked
        if audio.is_live:
            return cls(request.for_live_voice(), request.follows_voice)
        plan = request.for_voice(audio.video_frames(request.plan.fps))
        warnings: list[str] = []
        if not request.follows_voice and plan.num_clip < request.plan.num_clip:
            warnings.append(reduced_note(request.plan.num_clip, plan, audio))
        left_out, silence = length_notes(plan, audio)
        facts = filter(None, [silence, _cut_note(plan)])
        return cls(plan, request.follows_voice, tuple(filter(None, [*warnings, left_out])), tuple(facts))


def reduced_note(asked: int, plan: ClipPlan, audio: "Voice") -> str:
    """What is said when more clips were asked for than the voice fills."""
    return (
        f"num_clip {asked} was reduced to {plan.num_clip}: the sound lasts {float(audio.duration):.2f} s, "
        f"which {plan.num_clip} clips of {plan.infer_frames} frames at {format_fps(plan.fps)} fps cover."
    )


def length_notes(plan: ClipPlan, audio: "Voice") -> tuple[str, str]:
    """Both lengths when they differ by more than a frame: as part of the voice that is left out, or as silence.

    One of the two texts is empty, or both are.
    """
    more = plan.duration - audio.duration
    if abs(more) <= 1 / plan.fps:
        return "", ""
    lengths = f"voice {_seconds(audio.duration)}, video {_seconds(plan.duration)}"
    if more > 0:
        return "", f"{lengths}: {_seconds(more)} of silence at the end (end voice in Clip Scheduler leaves it out)"
    needed = clips_for_frames(audio.video_frames(plan.fps), plan.infer_frames)
    left_out = f"the last {_seconds(-more)} of the voice are left out; num_clip {needed} covers it"
    return f"{lengths}: {left_out} (0: as many clips as the voice needs)", ""


def _cut_note(plan: ClipPlan) -> str:
    if not plan.cut_frames:
        return ""
    return (
        f"The video ends with the voice (end): of the last clip, which is sampled and kept whole, {plan.cut_frames} of "
        f"{plan.infer_frames} frames are left out"
    )


def _seconds(seconds: Any) -> str:
    return format_duration(seconds, all_digits=True)
