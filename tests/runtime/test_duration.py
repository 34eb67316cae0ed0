"""Time arithmetic: exact at any frame rate and any length."""

from fractions import Fraction
from itertools import product

import pytest

from liveavatar_runtime.duration import (
    FRAMES_PER_BLOCK,
    blocks_per_clip,
    bucket_count,
    bucket_index,
    check_infer_frames,
    check_num_clip,
    clips_for_duration,
    clips_for_frames,
    duration,
    encoder_frames,
    format_duration,
    frames_for_samples,
    parse_fps,
    parse_seconds,
    samples_for_frames,
    video_frames,
)
from liveavatar_runtime.errors import InputError

RATES = [parse_fps(fps) for fps in (1, 12, 12.5, 15, 16, 20, 23.976, 24, 25, 29.97, 30, 50, 59.94, 60, 120)]
CLIP_FRAMES = (12, 24, 48, 96, 480)


@pytest.mark.parametrize(
    ("given", "exact"),
    [
        (16, Fraction(16)),
        (25.0, Fraction(25)),
        ("25", Fraction(25)),
        (12.5, Fraction(25, 2)),
        (23.976, Fraction(24000, 1001)),
        (23.98, Fraction(24000, 1001)),
        (24000 / 1001, Fraction(24000, 1001)),
        ("30000/1001", Fraction(30000, 1001)),
        (29.97, Fraction(30000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (119.88, Fraction(120000, 1001)),
        (50 / 3, Fraction(50, 3)),
        (Fraction(24000, 1001), Fraction(24000, 1001)),
        (1, Fraction(1)),
        (120, Fraction(120)),
    ],
)
def test_fps_is_exact(given, exact: Fraction):
    assert parse_fps(given) == exact


@pytest.mark.parametrize(
    "fps", [0, -16, 0.5, 121, 1e30, "", "fast", "1/0", "1e999999999", float("nan"), float("inf"), True, None]
)
def test_impossible_fps_is_refused(fps):
    with pytest.raises(InputError, match="fps is"):
        parse_fps(fps)


def test_seconds_are_what_was_typed():
    assert parse_seconds(0.1) * 10 == 1
    assert parse_seconds("2.5") == Fraction(5, 2)
    assert parse_seconds(0) == 0
    with pytest.raises(InputError, match="cannot be negative"):
        parse_seconds(-1)


@pytest.mark.parametrize("infer_frames", [0, -12, 1, 11, 13, 47, 50, 12.0, "48", True])
def test_clips_are_whole_blocks(infer_frames):
    with pytest.raises(InputError, match=r"infer_frames is .*(multiple of 12|whole number)"):
        check_infer_frames(infer_frames)


def test_the_refusal_names_the_neighbours():
    with pytest.raises(InputError, match="Use 60 or 48"):
        check_infer_frames(50)
    with pytest.raises(InputError, match=r"Use 12 \("):
        check_infer_frames(0)
    with pytest.raises(InputError, match="Use 36 or 24"):
        check_infer_frames(32)


@pytest.mark.parametrize("num_clip", [0, -1, 1.5, True])
def test_a_video_has_clips(num_clip):
    with pytest.raises(InputError, match="num_clip is"):
        check_num_clip(num_clip)


def test_published_lengths():
    """The figures of the original: (clips, frames a clip) -> seconds at 16 fps."""
    for num_clip, infer_frames, seconds in ((10, 48, 30), (50, 48, 150), (100, 48, 300), (200, 48, 600)):
        assert duration(num_clip, infer_frames, Fraction(16)) == seconds


def test_duration_forwards_and_backwards():
    for fps, infer_frames, num_clip in product(RATES, CLIP_FRAMES, (1, 2, 7, 1000, 5209)):
        seconds = duration(num_clip, infer_frames, fps)
        assert seconds * fps == video_frames(num_clip, infer_frames) == num_clip * infer_frames
        assert clips_for_duration(seconds, infer_frames, fps) == num_clip
        assert clips_for_duration(seconds + Fraction(1, 10**9), infer_frames, fps) == num_clip + 1
        assert clips_for_duration(seconds - Fraction(1, 10**9), infer_frames, fps) == num_clip
        assert blocks_per_clip(infer_frames) * FRAMES_PER_BLOCK == infer_frames


def test_the_shortest_video_is_one_clip():
    assert clips_for_duration(Fraction(0), 48, Fraction(16)) == 1


def test_sound_of_blocks_adds_up_to_the_sound_of_the_video():
    for fps, rate in product(RATES, (8000, 16000, 22050, 44100, 48000)):
        ends = [samples_for_frames(frames, fps, rate) for frames in range(0, 12 * 400 + 1, 12)]
        assert ends[0] == 0
        for number, end in enumerate(ends):
            assert abs(end - Fraction(12 * number * rate) / fps) <= Fraction(1, 2)
        exact = Fraction(12 * rate) / fps
        assert {b - a for a, b in zip(ends, ends[1:], strict=False)} <= {int(exact), int(exact) + 1}


def test_frames_of_a_sound_are_the_fewest_that_have_all_its_samples():
    for fps, rate in product(RATES, (8000, 16000, 22050, 44100, 48000)):
        for samples in (1, 2, rate // 2 + 1, 111_037, samples_for_frames(1000, fps, rate), 7 * rate, 3601 * rate - 1):
            frames = frames_for_samples(samples, fps, rate)
            assert samples_for_frames(frames, fps, rate) >= samples
            assert frames == 1 or samples_for_frames(frames - 1, fps, rate) < samples
        for frames in (1, 12, 47, 48, 49, 100_001):
            assert frames_for_samples(samples_for_frames(frames, fps, rate), fps, rate) == frames


@pytest.mark.parametrize("frames", [1, 47, 48, 49, 96, 97])
def test_clips_of_frames(frames):
    clips = clips_for_frames(frames, 48)
    assert (clips - 1) * 48 < frames <= clips * 48


def test_ten_thousand_seconds_do_not_drift():
    fps = parse_fps(29.97)
    frames = 10_000 * 30_000 // 1001
    assert abs(samples_for_frames(frames, fps, 48000) - frames * 48000 / fps) <= Fraction(1, 2)
    assert duration(6250, 48, Fraction(30)) == 10_000


def test_encoder_frames_are_those_of_the_convolutions():
    for samples in (0, 399, 400, 719, 720, 16000, 159_999, 160_000_000):
        length = samples
        for kernel, stride in ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)):
            length = max((length - kernel) // stride + 1, 0)
        assert encoder_frames(samples) == length


def test_buckets_follow_the_frames():
    assert [bucket_index(frame, Fraction(16)) for frame in range(10)] == [0, 2, 4, 6, 8, 9, 11, 13, 15, 17]
    assert [bucket_index(frame, Fraction(24)) for frame in (2, 6, 10, 14)] == [2, 8, 12, 18]
    for fps in RATES:
        for frame in (0, 1, 11, 1_000_003):
            assert abs(bucket_index(frame, fps) - frame * 30 / fps) <= Fraction(1, 2)
    assert (bucket_count(0), bucket_count(1), bucket_count(205), bucket_count(500)) == (0, 0, 122, 300)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (Fraction(0), "0 s"),
        (Fraction(15, 2), "7.5 s"),
        (Fraction(10), "10 s"),
        (Fraction(150), "2 min 30 s"),
        (Fraction(59_999, 1000), "1 min 0 s"),
        (Fraction(3600), "1 h 0 min 0 s"),
        (Fraction(10_000), "2 h 46 min 40 s"),
        (Fraction(48 * 1001, 30_000), "1.6 s"),
    ],
)
def test_duration_for_people(seconds: Fraction, text: str):
    assert format_duration(seconds) == text


def test_duration_with_all_digits():
    assert format_duration(Fraction(9), all_digits=True) == "9.00 s"
    assert format_duration(Fraction(90), all_digits=True) == "1 min 30.00 s"


@pytest.mark.parametrize("fps", ["16", "18", "25", "23.976", "29.97", "30", "7"])
def test_a_duration_sent_as_a_float_gives_its_clips_back(fps):
    rate = parse_fps(fps)
    for clips in range(1, 400):
        seconds = float(duration(clips, 48, rate))
        assert clips_for_duration(parse_seconds(seconds), 48, rate) == clips
