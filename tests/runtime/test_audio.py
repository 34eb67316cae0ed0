"""Sound tracks: checks, resampling, windows, and features on demand."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.audio.waveform import encoder_length, mix_to_stereo, read_sound, resample, to_encoder_rate
from liveavatar_runtime.audio.windows import EncodedWindows, LongTrack, SampledTrack, encode_in_windows, plan_windows
from liveavatar_runtime.duration import bucket_count, encoder_frames, parse_fps
from liveavatar_runtime.errors import InputError


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tone(seconds: float, rate: int, frequency: float = 440) -> Tensor:
    """[1, S]"""
    return 0.5 * torch.sin(2 * torch.pi * frequency * torch.arange(round(seconds * rate)) / rate)[None]


def audio(features: Tensor, seconds: int = 1, rate: int = 100) -> AvatarAudio:
    return AvatarAudio(features, torch.zeros(1, seconds * rate), rate)


# --- waveforms ---


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_float_tracks_of_any_width(dtype: torch.dtype):
    given = (0.5 * random(2, 8000)).to(dtype)
    for waveform in (given, given[None]):
        cleaned = read_sound(waveform, 16000).waveform
        assert cleaned.dtype == torch.float32 and torch.equal(cleaned, given.float())


@pytest.mark.parametrize(
    ("dtype", "low", "middle", "high"),
    [
        (torch.uint8, 0, 128, 255),
        (torch.int8, -128, 0, 127),
        (torch.int16, -(2**15), 0, 2**15 - 1),
        (torch.int32, -(2**31), 0, 2**31 - 1),
    ],
)
def test_integer_tracks_are_scaled(dtype: torch.dtype, low: int, middle: int, high: int):
    given = torch.tensor([[low, middle, high] * 400], dtype=dtype)
    cleaned = read_sound(given, 16000).waveform[0, :3]
    torch.testing.assert_close(cleaned, torch.tensor([-1.0, 0.0, 1.0]), atol=1 / 127, rtol=0)
    assert cleaned[0] == -1 and cleaned[1] == 0


def with_value(value: float, at: int) -> Tensor:
    waveform = torch.zeros(2, 16000)
    waveform[1, at] = value
    return waveform


@pytest.mark.parametrize(
    ("waveform", "sample_rate", "message"),
    [
        (torch.zeros(1, 0), 16000, "no samples"),
        (torch.zeros(1, 0, 100), 16000, "no samples"),
        (torch.zeros(0, 2, 16000), 16000, "no samples"),
        (torch.zeros(16000), 16000, r"shape \(16000,\); it must be \[channels, samples\]"),
        (torch.zeros(1, 1, 1, 16000), 16000, "it must be"),
        (torch.zeros(16000, 2), 16000, "16000 channels.*transpose"),
        (with_value(float("nan"), 4000), 16000, r"NaN or infinite, the first at 0\.250 s of 1\.000 s"),
        (with_value(float("-inf"), 0), 8000, r"the first at 0\.000 s of 2\.000 s"),
        (torch.full((1, 16000), 1e300, dtype=torch.float64), 16000, "NaN or infinite"),
        (torch.zeros(1, 399), 16000, r"399 samples at 16000 Hz \(24\.9 ms\); at least 25 ms"),
        (torch.zeros(1, 1099), 44100, "at least 25 ms"),
        (torch.zeros(1, 16000), 0, "sample rate is 0"),
        (torch.zeros(1, 16000), -8000, "sample rate is -8000"),
        (torch.zeros(1, 16000), 44100.5, "sample rate is 44100.5"),
        (torch.zeros(1, 16000), float("nan"), "sample rate is nan"),
        (torch.zeros(1, 16000), float("inf"), "sample rate is inf"),
        (torch.zeros(1, 16000), True, "sample rate is True"),
        (torch.zeros(1, 16000), "16000", "sample rate is '16000'"),
        (torch.zeros(1, 16000), torch.tensor([16000, 16000]), "sample rate is tensor"),
        (np.zeros((1, 16000), "U1"), 16000, "is a ndarray"),
        (torch.zeros(1, 16000, dtype=torch.int64), 16000, "torch.int64"),
        (torch.zeros(1, 16000, dtype=torch.bool), 16000, "torch.bool"),
        (torch.zeros(1, 16000, dtype=torch.complex64), 16000, "torch.complex64"),
        ([0.0] * 16000, 16000, "is a list"),
        (None, 16000, "is a NoneType"),
    ],
)
def test_unusable_sound_is_refused(waveform, sample_rate, message: str):
    with pytest.raises(InputError, match=message):
        read_sound(waveform, sample_rate)


@pytest.mark.parametrize(
    "rate",
    [24000.0, np.int64(24000), np.float32(24000), np.array([24000]), torch.tensor(24000), torch.tensor(24000.0)],
)
def test_a_rate_of_any_type_that_is_a_number(rate):
    sound = read_sound(torch.zeros(1, 24000), rate)
    assert sound == replace(sound, sample_rate=24000) and type(sound.sample_rate) is int and not sound.changes


def test_numpy_arrays():
    samples = (0.5 * random(2, 8000)).numpy()
    assert torch.equal(read_sound(samples, 16000).waveform, torch.from_numpy(samples))
    backwards = read_sound(samples[:, ::-1].astype(np.float64), 16000).waveform
    assert torch.equal(backwards, torch.from_numpy(samples).flip(1))
    assert float(read_sound((samples * 2**15).astype(np.int16), 16000).waveform.abs().max()) <= 1


def test_the_first_track_of_a_batch_is_used_and_said():
    tracks = random(3, 2, 8000) / 4
    sound = read_sound(tracks, 16000)
    assert torch.equal(sound.waveform, tracks[0])
    assert sound.changes == ("The sound is a batch of 3 tracks; the first one is used.",)


@pytest.mark.parametrize("channels", range(1, 13))
def test_more_than_two_channels_are_mixed(channels: int):
    given = torch.ones(channels, 8000)
    sound = read_sound(given, 16000)
    if channels <= 2:
        assert torch.equal(sound.waveform, given) and not sound.changes
        return
    assert f"{channels} channels" in sound.changes[0]
    assert sound.waveform.shape == ((2 if channels <= 8 else 1), 8000)
    # Full scale everywhere is full scale again.
    torch.testing.assert_close(sound.waveform, torch.ones_like(sound.waveform))


def test_speakers_of_a_surround_track_keep_their_side():
    """As FFmpeg mixes 5.1 to stereo: FL FR FC LFE BL BR."""
    loudest = 1 + 2 * math.sqrt(0.5)
    side = math.sqrt(0.5) / loudest
    expected = [(1 / loudest, 0), (0, 1 / loudest), (side, side), (0, 0), (side, 0), (0, side)]
    for speaker, levels in enumerate(expected):
        track = torch.zeros(6, 1)
        track[speaker] = 1
        mixed, _ = mix_to_stereo(track)
        torch.testing.assert_close(mixed[:, 0], torch.tensor(levels, dtype=torch.float32))


def test_levels_far_from_full_scale_are_said():
    sine = tone(1, 16000) * 2
    assert not read_sound(sine * 1.05, 16000).changes
    (loud,) = read_sound(sine * 3, 16000).changes
    assert "too loud: its samples reach 3.0" in loud
    integers = read_sound((sine * 20000).round(), 16000)
    assert "read as 16 bit numbers" in integers.changes[0]
    torch.testing.assert_close(integers.waveform, sine * 20000 / 2**15, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("samples", "rate"), [(400, 16000), (200, 8000), (1100, 44100), (1200, 48000)])
def test_the_shortest_sound_is_one_encoder_frame(samples: int, rate: int):
    waveform = read_sound(torch.zeros(1, samples), rate).waveform
    assert to_encoder_rate(waveform, rate).shape == (1, 400)
    assert encoder_length(samples, rate) == 400


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_resampled_tones_keep_their_pitch_and_length(rate: int):
    resampled = to_encoder_rate(torch.cat([tone(1, rate), tone(1, rate)]), rate)
    assert resampled.shape == (1, 16000)
    torch.testing.assert_close(resampled[:, 200:-200], tone(1, 16000)[:, 200:-200], atol=2e-3, rtol=0)


@pytest.mark.parametrize("rate", [8000, 44100])
def test_long_sound_resampled_in_pieces_equals_one_go(rate: int):
    from torchaudio.functional import resample as in_one_go

    waveform = random(1, 130 * rate + 12345)
    assert torch.equal(resample(waveform, rate, 16000), in_one_go(waveform, rate, 16000))


def test_rates_that_need_a_giant_filter_are_refused():
    with pytest.raises(InputError, match="44101 Hz"):
        to_encoder_rate(tone(1, 44101), 44101)


# --- windows ---


@pytest.mark.parametrize("num_frames", [1, 99, 100, 101, 140, 160, 161, 1000, 100_000])
@pytest.mark.parametrize("context", [0, 20, 49])
def test_windows_keep_every_frame_once(num_frames: int, context: int):
    windows = plan_windows(num_frames, 100, context)
    kept = [(window.keep_start, window.keep_stop) for window in windows]
    assert kept[0][0] == 0 and kept[-1][1] == num_frames
    assert all(stop == start for (_, stop), (start, _) in zip(kept, kept[1:], strict=False))
    for window in windows:
        assert window.stop - window.start == min(num_frames, 100)
        assert window.start <= window.keep_start < window.keep_stop <= window.stop
        assert window.start == 0 or window.keep_start - window.start >= context
        assert window.stop == num_frames or window.stop - window.keep_stop >= context
    assert len(windows) <= 2 + num_frames // (100 - 2 * context)


def frame_means(samples: Tensor, sample_rate: int) -> Tensor:
    """An encoder whose frames see 400 samples each, as wav2vec2's, but no others: windows must not show at all."""
    frames = to_encoder_rate(samples, sample_rate)[0].unfold(0, 400, 320)
    return torch.stack([frames.mean(1), frames.amax(1)], dim=1)[None].repeat(3, 1, 1)


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_windows_are_aligned_with_one_pass(rate: int):
    waveform = random(2, 11 * rate + rate // 3)
    whole = frame_means(waveform, rate)
    assert whole.shape[1] == encoder_frames(encoder_length(waveform.shape[1], rate))
    progress: list[tuple[int, int]] = []
    windows = encode_in_windows(
        frame_means,
        waveform,
        rate,
        LongTrack(window_seconds=3, context_seconds=1, progress=lambda *step: progress.append(step)),
    )
    torch.testing.assert_close(windows, whole, atol=1e-6, rtol=0)
    assert progress == [(i + 1, len(progress)) for i in range(len(progress))] and len(progress) > 5


def test_short_sound_is_encoded_in_one_pass_as_it_is():
    calls: list[tuple[Tensor, int]] = []

    def encode(waveform: Tensor, sample_rate: int) -> Tensor:
        calls.append((waveform, sample_rate))
        return frame_means(waveform, sample_rate)

    waveform = random(2, 3 * 44100)
    states = encode_in_windows(encode, waveform, 44100, LongTrack(window_seconds=3, context_seconds=1))
    assert len(calls) == 1 and calls[0][0] is waveform and calls[0][1] == 44100
    assert torch.equal(states, frame_means(waveform, 44100))


def test_other_encoders_are_refused():
    with pytest.raises(InputError, match="50 frames a second.*wav2vec2"):
        encode_in_windows(
            lambda samples, rate: torch.zeros(33, 1500, 8),
            random(1, 160_000),
            16000,
            LongTrack(window_seconds=3, context_seconds=1),
        )


def windowed(waveform: Tensor) -> tuple[EncodedWindows, list[int]]:
    """Of 3 s, and the samples of each that is encoded."""
    calls: list[int] = []

    def encode(samples: Tensor, rate: int) -> Tensor:
        calls.append(samples.shape[1])
        return frame_means(samples, rate)

    return EncodedWindows(encode, SampledTrack(waveform), LongTrack(window_seconds=3, context_seconds=1)), calls


@pytest.mark.parametrize("fps", [16, 23.976, 25, 60])
def test_of_a_long_track_the_frames_that_are_asked_for_are_encoded_and_equal_those_of_the_whole(fps: float):
    waveform, rate = random(1, 16000 * 20), parse_fps(fps)
    how = LongTrack(window_seconds=3, context_seconds=1)
    whole = AvatarAudio(encode_in_windows(frame_means, waveform, 16000, how)[None], waveform, 16000)
    frames = int(20 * rate)
    for first, count in ((0, 12), (frames // 2, 12), (frames - 30, 60), (0, frames)):
        windows, calls = windowed(waveform)
        track = AvatarAudio.of_windows(windows, (waveform, 16000), "a key")
        assert torch.equal(track.aligned(first, count, rate), whole.aligned(first, count, rate))
        most = 20 if count == frames else 4
        assert len(calls) == windows.encoded <= most
    assert windows.encoded == len(calls) > 10 and track.features_fingerprint == whole.fingerprint


def test_a_window_is_encoded_once_whoever_asks():
    windows, calls = windowed(random(1, 16000 * 12))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda first: windows.need(first, first + 30), range(0, 560, 20)))
    assert len(calls) == windows.encoded and windows.encoded == len({*range(windows.encoded)})
    windows.need(0, windows.states.shape[1])
    assert len(calls) == windows.encoded


def test_the_name_of_a_long_track_needs_none_of_its_features():
    windows, calls = windowed(random(1, 16000 * 12))
    track = AvatarAudio.of_windows(windows, (random(1, 16000 * 12), 16000), "a key")
    assert track.fingerprint == "a key" and track.broken == 0 and len(calls) == 1


def test_features_that_are_no_numbers_are_told_when_they_are_encoded():
    windows, _ = windowed(torch.cat([random(1, 16000 * 9), torch.full((1, 16000 * 3), torch.nan)], dim=1))
    track = AvatarAudio.of_windows(windows, (random(1, 16000 * 12), 16000), "a key")
    track.aligned(0, 12, parse_fps(16))
    with pytest.raises(InputError, match="encoded to values that are not numbers"):
        track.aligned(180, 12, parse_fps(16))


# --- features ---


@pytest.mark.parametrize("fps", [16, 23.976, 24, 25, 29.97, 30, 60, 120])
def test_a_slice_equals_the_slice_of_the_whole(fps: float):
    rate = parse_fps(fps)
    track = audio(random(2, 3, 205, 4))
    total = int(5 * rate)
    whole = track.aligned(0, total, rate)
    assert whole.shape == (2, 3, 4, total) and whole.dtype == torch.float32
    for first, count in ((0, 12), (1, 1), (36, 12), (total - 12, 12), (total // 2, total // 3), (0, 0)):
        assert torch.equal(track.aligned(first, count, rate), whole[..., first : first + count])


def test_frames_after_the_end_are_zero_and_far_frames_cost_nothing():
    track = audio(torch.ones(1, 2, 50, 3))
    aligned = track.aligned(0, 48, Fraction(16))
    assert aligned[..., :16].min() == 1 and aligned[..., 16:].abs().max() == 0
    assert track.aligned(10**9, 12, Fraction(25)).abs().max() == 0


@pytest.mark.parametrize("frames", [2, 3, 37, 205, 30_011])
def test_interpolation_equals_that_of_torch(frames: int):
    features = random(2, frames, 3)
    buckets = bucket_count(frames)
    expected = torch.nn.functional.interpolate(
        features.transpose(1, 2), size=buckets, mode="linear", align_corners=True
    )
    ours = audio(features[None]).aligned(0, buckets + 2, Fraction(30))[0]
    torch.testing.assert_close(ours[..., :buckets], expected, atol=1e-6, rtol=0)
    assert ours[..., buckets:].abs().max() == 0


def test_features_follow_time():
    """A feature that is its own time in seconds is read at the frame's time, to half a bucket."""
    seconds = torch.arange(5000) / 50
    track = audio(seconds[None, None, :, None])
    for fps in (Fraction(16), Fraction(25), parse_fps(23.976)):
        frames = int(99 * fps)
        times = torch.arange(frames, dtype=torch.float64) / float(fps)
        assert (track.aligned(0, frames, fps).flatten() - times).abs().max() <= 1 / 60 + 1 / 50


def test_half_precision_features_are_read_in_float32():
    features = random(1, 3, 100, 4)
    ours = audio(features.half()).aligned(0, 20, Fraction(16))
    assert ours.dtype == torch.float32
    assert torch.equal(ours, audio(features.half().float()).aligned(0, 20, Fraction(16)))


def test_sound_too_short_for_a_bucket_is_silence():
    for frames in (0, 1):
        assert audio(torch.ones(1, 2, frames, 3)).aligned(0, 12, Fraction(16)).abs().max() == 0


def test_frames_before_the_video_are_a_mistake():
    with pytest.raises(ValueError, match=r"frames \[-1, 11\)"):
        audio(torch.ones(1, 2, 9, 3)).aligned(-1, 12, Fraction(16))


def test_duration_is_exact():
    track = AvatarAudio(torch.zeros(1, 1, 5, 1), torch.zeros(2, 44101), 44100)
    assert track.duration == Fraction(44101, 44100)


def test_tracks_of_other_shapes_are_refused():
    waveform = torch.zeros(1, 100)
    with pytest.raises(InputError, match=r"\[actors, layers, frames, width\]"):
        AvatarAudio(torch.zeros(25, 9, 8), waveform, 100)
    with pytest.raises(InputError, match=r"\[channels, samples\]"):
        AvatarAudio(torch.zeros(1, 25, 9, 8), waveform[0], 100)
    with pytest.raises(InputError, match="lengths are"):
        AvatarAudio(torch.zeros(1, 25, 9, 8), waveform, 100, (10,))
