"""Time arithmetic at any frame rate and up to a million clips: nothing drifts, and every formula has its inverse.

The examples are the same in every run.
"""

from fractions import Fraction
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from liveavatar_runtime.duration import (
    MAX_FPS,
    MAX_SECONDS,
    MIN_FPS,
    clips_for_duration,
    clips_for_frames,
    duration,
    format_fps,
    format_hms,
    frames_for_samples,
    parse_fps,
    parse_hms,
    parse_seconds,
    samples_for_frames,
    segment_clips,
    video_frames,
)
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.plan_request import PlanRequest

MOST_CLIPS = 1_000_000
THREE_DAYS = 2**18
"""Seconds; of longer ones a float may stand for two lengths at rates such as 110.503."""
NTSC = [Fraction(nominal * 1000, 1001) for nominal in (24, 30, 48, 60, 120)]
WHOLE = [Fraction(rate) for rate in range(MIN_FPS, MAX_FPS + 1)]
EVERY_RATE = [*WHOLE, *NTSC]

few = settings(max_examples=150, derandomize=True, database=None, deadline=None)
rates = st.one_of(
    st.sampled_from(EVERY_RATE),
    # What the widget can hold.
    st.integers(MIN_FPS * 1000, MAX_FPS * 1000).map(lambda thousandths: parse_fps(Fraction(thousandths, 1000))),
)
clips = st.integers(1, MOST_CLIPS)
clip_frames = st.integers(1, 80).map(lambda blocks: 12 * blocks)
sample_rates = st.sampled_from([8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000])


def test_every_rate_is_read_back_from_what_is_shown():
    for rate in EVERY_RATE:
        assert parse_fps(float(rate)) == parse_fps(str(rate)) == parse_fps(rate) == rate
        shown, _, fraction = format_fps(rate).partition(" ")
        assert parse_fps(shown) == rate, "the digits alone"
        assert not fraction or Fraction(fraction.strip("()")) == rate
        assert bool(fraction) == (rate in NTSC), "a fraction where the digits are not all"


@few
@given(clips, clip_frames, rates)
def test_clips_and_duration_are_inverse(num_clip: int, infer_frames: int, fps: Fraction):
    seconds = duration(num_clip, infer_frames, fps)
    assert seconds * fps == video_frames(num_clip, infer_frames) == num_clip * infer_frames
    assert clips_for_duration(seconds, infer_frames, fps) == num_clip
    shortest = Fraction(1, 10**12)
    assert clips_for_duration(seconds + shortest, infer_frames, fps) == num_clip + 1
    assert clips_for_duration(seconds - shortest, infer_frames, fps) == num_clip
    if fps in EVERY_RATE or seconds <= THREE_DAYS:
        # As it comes over a FLOAT socket.
        assert clips_for_duration(parse_seconds(float(seconds)), infer_frames, fps) == num_clip


@few
@given(clips, clip_frames, rates)
def test_a_duration_as_text_gives_its_clips_back(num_clip: int, infer_frames: int, fps: Fraction):
    seconds = duration(num_clip, infer_frames, fps)
    if seconds <= MAX_SECONDS:
        shown = parse_hms(format_hms(seconds))
        assert seconds - Fraction(1, 1000) < shown <= seconds
        assert clips_for_duration(shown, infer_frames, fps) == num_clip


@few
@given(st.integers(0, MAX_SECONDS * 1000))
def test_hours_minutes_and_seconds_are_read_back(thousandths: int):
    seconds = Fraction(thousandths, 1000)
    assert parse_hms(format_hms(seconds)) == seconds
    assert parse_hms(f"{thousandths // 1000}.{thousandths % 1000:03}") == seconds


@few
@given(clips, clip_frames, rates, sample_rates)
def test_frames_and_samples_are_inverse(num_clip: int, infer_frames: int, fps: Fraction, rate: int):
    frames = video_frames(num_clip, infer_frames)
    samples = samples_for_frames(frames, fps, rate)
    assert abs(samples - Fraction(frames) * rate / fps) <= Fraction(1, 2), "no error adds up"
    assert frames_for_samples(samples, fps, rate) == frames
    assert frames_for_samples(samples + 1, fps, rate) == frames + 1
    assert samples_for_frames(frames - 1, fps, rate) < samples


@few
@given(st.integers(1, 10**12), rates, sample_rates)
def test_no_sample_is_left_out(samples: int, fps: Fraction, rate: int):
    frames = frames_for_samples(samples, fps, rate)
    assert samples_for_frames(frames, fps, rate) >= samples
    assert frames == 1 or samples_for_frames(frames - 1, fps, rate) < samples


@few
@given(clips, clip_frames, rates, sample_rates, st.data())
def test_segments_add_up(num_clip: int, infer_frames: int, fps: Fraction, rate: int, data: st.DataObject):
    """Every clip is in one segment, and the sound of neighbours meets in one sample."""
    length = data.draw(st.integers(1, num_clip), "segment_clips")
    count = -(-num_clip // length)
    first = data.draw(st.integers(0, max(0, count - 4)), "first segment that is looked at")
    parts = [segment_clips(num_clip, length, index) for index in range(first, min(first + 4, count))]
    assert parts[0].start == first * length
    assert all(one.stop == other.start for one, other in pairwise(parts))
    assert segment_clips(num_clip, length, count - 1).stop == num_clip
    borders = [part.start * infer_frames for part in parts] + [parts[-1].stop * infer_frames]
    at = [samples_for_frames(border, fps, rate) for border in borders]
    assert sum(b - a for a, b in pairwise(at)) == at[-1] - at[0]
    exact = [Fraction(b - a) * rate / fps for a, b in pairwise(borders)]
    assert all(abs(b - a - long) < 1 for (a, b), long in zip(pairwise(at), exact, strict=True))


@few
@given(st.integers(1, 10**10), clip_frames, rates, sample_rates)
def test_a_voice_is_covered_by_the_fewest_clips(samples: int, infer_frames: int, fps: Fraction, rate: int):
    frames = frames_for_samples(samples, fps, rate)
    plan = PlanRequest.of(0, "voice", infer_frames=infer_frames, fps=fps).for_voice(frames)
    assert plan.num_clip == clips_for_frames(frames, infer_frames)
    assert plan.frames == frames, "the last clip is cut where the voice ends"
    assert samples <= samples_for_frames(plan.frames, fps, rate)
    assert (plan.num_clip - 1) * infer_frames < frames <= plan.num_clip * infer_frames


def test_segments_of_a_million_clips_are_the_whole_video():
    """All of them, at the rates that are no whole numbers."""
    for fps in NTSC:
        whole = ClipPlan(num_clip=MOST_CLIPS, infer_frames=48, fps=fps)
        borders = [48 * index * 10_000 for index in range(MOST_CLIPS // 10_000 + 1)]
        sounds = [samples_for_frames(b, fps, 48_000) - samples_for_frames(a, fps, 48_000) for a, b in pairwise(borders)]
        assert sum(sounds) == samples_for_frames(whole.frames, fps, 48_000) == whole.duration * 48_000
