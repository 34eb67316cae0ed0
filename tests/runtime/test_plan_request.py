"""What a voice makes of a plan: clips, the last frame, segments, and the words about both lengths."""

import random
from fractions import Fraction
from itertools import product

import pytest
import torch

from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.duration import parse_fps, samples_for_frames
from liveavatar_runtime.errors import InputError
from liveavatar_runtime.planning.advice import advice
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.plan_request import ENDS, PlanRequest, VoicedPlan
from liveavatar_runtime.sampling.prepare import clamp_clips
from liveavatar_runtime.sampling.video_key import NOT_IN_KEY

RATES = [parse_fps(fps) for fps in (1, 12.5, 16, 23.976, 25, 29.97, "30000/1001", 60, 120)]


def voice(samples: int, rate: int = 16000) -> AvatarAudio:
    return AvatarAudio(torch.zeros(1, 1, 2, 4), torch.zeros(1, samples), rate)


def samples_of(seed: int) -> list[tuple[int, int]]:
    """(samples, rate): odd ones, and ends of frames of every rate, as they are rounded."""
    draw = random.Random(seed)
    odd = [(draw.randrange(1, 40 * rate) | 1, rate) for rate in (8000, 16000, 22050, 44100, 48000) for _ in range(3)]
    return odd + [(samples_for_frames(draw.randrange(1, 500), fps, 44100), 44100) for fps in RATES]


@pytest.mark.parametrize("infer_frames", [12, 48])
def test_a_video_that_ends_with_the_voice_has_the_frame_of_its_last_sample(infer_frames):
    for (samples, rate), fps in product(samples_of(infer_frames), RATES):
        sound = voice(samples, rate)
        frames = sound.video_frames(fps)
        plan = PlanRequest.of(0, "voice", infer_frames=infer_frames, fps=fps).for_voice(frames)
        assert plan.frames == frames == plan.num_clip * infer_frames - plan.cut_frames
        first, end = (samples_for_frames(frame, fps, rate) for frame in (frames - 1, frames))
        assert first < samples <= end or frames == 1
        assert plan.duration == frames / fps and abs(plan.duration - sound.duration) <= 1 / fps
        whole = PlanRequest.of(0, infer_frames=infer_frames, fps=fps).for_voice(frames)
        assert whole.cut_frames == 0 and 0 <= whole.frames - frames < infer_frames
        assert VoicedPlan.of(PlanRequest.of(0, "voice", infer_frames=infer_frames, fps=fps), sound).warnings == ()
        assert clamp_clips(whole, sound) == (whole, ()) and clamp_clips(plan, sound) == (plan, ())


def test_segments_of_it_are_the_whole_and_only_the_last_is_shorter():
    draw = random.Random(5)
    for _ in range(200):
        frames, length = draw.randrange(1, 2000), draw.randrange(1, 9)
        end = draw.choice(ENDS)
        whole = PlanRequest.of(0, end, infer_frames=24).for_voice(frames)
        count = -(-whole.num_clip // length)
        parts = [
            PlanRequest.of(0, end, infer_frames=24, segment_clips=length, segment_index=index).for_voice(frames).segment
            for index in range(count)
        ]
        assert [part.first_frame for part in parts] == [24 * length * index for index in range(count)]
        assert all(part.frames == 24 * length for part in parts[:-1]) and parts[-1].frames > 0
        assert sum(part.frames for part in parts) == whole.frames
        with pytest.raises(InputError, match=f"segment_index is {count}; the voice fills {whole.num_clip} clips"):
            PlanRequest.of(0, end, infer_frames=24, segment_clips=length, segment_index=count).for_voice(frames)


def test_a_number_of_clips_is_never_more_than_the_voice_fills():
    frames = 111
    assert PlanRequest.of(50).for_voice(frames).num_clip == PlanRequest.of(0).for_voice(frames).num_clip == 3
    cut = PlanRequest.of(50, "voice").for_voice(frames)
    assert (cut.num_clip, cut.cut_frames) == (3, 33)
    fewer = PlanRequest.of(2, "voice").for_voice(frames)
    assert (fewer.num_clip, fewer.cut_frames) == (2, 0), "the voice goes on, so no frame is without it"


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"num_clip": -1}, "num_clip is -1. Use 1 or more, or 0"),
        ({"num_clip": 0, "segment_index": 1}, "segment_index is 1 and segment_clips 0"),
        ({"num_clip": 0, "segment_clips": 3, "segment_index": -1}, "neither can be negative"),
        (
            {"num_clip": 3, "segment_clips": 1, "segment_index": 3},
            "3 clips in segments of 1 make 3, so allowed is 0 to 2",
        ),
        ({"num_clip": 0, "end": "video"}, "end is 'video'; allowed are clip, voice"),
    ],
)
def test_what_no_voice_makes_possible_is_refused_at_once(values, match):
    with pytest.raises(InputError, match=match):
        PlanRequest.of(**values)


@pytest.mark.parametrize(
    ("num_clip", "fps", "end", "warned", "told"),
    [
        (3, 16, "clip", [], ["voice 6.94 s, video 9.00 s: 2.06 s of silence at the end"]),
        (0, 16, "clip", [], ["voice 6.94 s, video 9.00 s: 2.06 s of silence at the end"]),
        (
            3,
            25,
            "clip",
            ["voice 6.94 s, video 5.76 s: the last 1.18 s of the voice are left out; num_clip 4 covers it"],
            [],
        ),
        (
            50,
            16,
            "voice",
            ["num_clip 50 was reduced to 3: the sound lasts 6.94 s"],
            ["of the last clip, which is sampled and kept whole, 32 of 48 frames"],
        ),
    ],
)
def test_both_lengths_are_told_when_they_differ(num_clip, fps, end, warned, told):
    found = VoicedPlan.of(PlanRequest.of(num_clip, end, fps=Fraction(fps)), voice(111_040))
    for texts, parts in ((found.warnings, warned), (found.facts, told)):
        assert len(texts) == len(parts) and all(part in text for part, text in zip(parts, texts, strict=True)), texts


def test_a_difference_within_a_frame_is_not_told():
    for samples in (48_000 - 900, 48_000, 48_000 + 900):
        found = VoicedPlan.of(PlanRequest.of(1), voice(samples))
        assert found.warnings == found.facts == () and found.plan.frames == 48


def test_a_cut_changes_no_latents_and_no_key():
    plan = PlanRequest.of(0, "voice").for_voice(100)
    assert plan.cut_frames == 44 and "cut_frames" in NOT_IN_KEY
    assert plan.until(plan.num_clip) == PlanRequest.of(0).for_voice(100)
    assert plan.clamped_to(2) == ClipPlan(num_clip=2), "a cut belongs to the last clip"
    with pytest.raises(InputError, match="cut_frames is 48; allowed are 0 to 47"):
        ClipPlan(cut_frames=48)


def test_what_is_known_of_an_open_plan_is_said_with_clips_from_1():
    text = "\n".join(advice(PlanRequest.of(0, "voice", segment_clips=5, segment_index=2)))
    for part in (
        "As many clips as the voice needs; a clip is 48 frames / 16 fps = 3 s: 4 blocks, 16 evaluations",
        "Segment 3 (segment_index 2): clips 11 to 15, as far as the voice reaches",
        "The video ends with the voice",
        " MiB a clip",
    ):
        assert part in text, text
    closed = "\n".join(advice(PlanRequest.of(12, segment_clips=5, segment_index=2)))
    assert "Segment 3 of 3 (segment_index 2 of 0 to 2): clips 11 to 12, 96 frames, 6 s" in closed
