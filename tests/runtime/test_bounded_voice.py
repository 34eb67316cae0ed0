"""A voice with bounded context: what stays of it, to the bit, when it goes on, and the keys that tell so."""

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from liveavatar_runtime.audio.bounded import BOUNDED, BoundedContext, BoundedTrack, HeardSound
from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.audio.wav2vec2 import load_wav2vec2
from liveavatar_runtime.audio.waveform import (
    settled_samples,
    source_samples,
    to_encoder_rate,
    to_encoder_rate_in_pieces,
)
from liveavatar_runtime.audio.windows import Encode, EncodedWindows
from liveavatar_runtime.checkpoint.bundle import find_bundle
from liveavatar_runtime.checkpoint.safetensors_io import read_json, read_weight_file
from liveavatar_runtime.duration import FRAMES_PER_BLOCK, encoder_frames, parse_fps

SMALL = BoundedContext(step=10, look_back=20, look_ahead=5)
RATES = (8000, 11025, 16000, 22050, 44100, 48000)
FPS = (16, 23.976, 24, 25, 29.97, 30, 60)


def sound(samples: int, seed: int = 1, channels: int = 1) -> Tensor:
    return torch.randn(channels, samples, generator=torch.Generator().manual_seed(seed))


def whole_window(samples: Tensor, rate: int) -> Tensor:
    """An encoder of which every frame sees all that it is given, and how much that is."""
    frames = samples[0].unfold(0, 400, 320)
    of_all = torch.stack([samples.mean(), samples.std(), torch.tensor(float(samples.shape[1]))])
    return torch.cat([frames.mean(1, keepdim=True), of_all.repeat(len(frames), 1)], dim=1)[None].repeat(2, 1, 1)


def bounded(
    waveform: Tensor, rate: int, encode: Encode = whole_window, context: BoundedContext = SMALL, encoder: str = "one"
) -> AvatarAudio:
    heard = HeardSound(waveform, rate, encoder, context=context)
    return AvatarAudio.of_bounded(EncodedWindows(encode, heard, BoundedTrack(context)), heard)


@pytest.mark.parametrize("frames", [1, 9, 10, 11, 34, 35, 36, 1000])
def test_windows_lie_at_fixed_places_and_keep_every_frame_once(frames: int) -> None:
    windows, longer = SMALL.windows(frames), SMALL.windows(frames + 100)
    assert [n for window in windows for n in range(window.keep_start, window.keep_stop)] == list(range(frames))
    whole = SMALL.settled(frames) // SMALL.step
    assert windows[:whole] == longer[:whole] and windows[whole:] != longer[whole : len(windows)]
    for window in windows[:whole]:
        assert window.stop - window.keep_stop == SMALL.look_ahead
        assert window.keep_start - window.start == min(SMALL.look_back, window.keep_start)


@settings(max_examples=20, deadline=None)
@given(rate=st.sampled_from(RATES), milliseconds=st.integers(30, 1500), more=st.integers(1, 1500), fps=st.data())
def test_settled_frames_stay_when_the_voice_goes_on(
    rate: int, milliseconds: int, more: int, fps: st.DataObject
) -> None:
    """Features and keys of any split, to the bit; and the first frame that is not settled does change."""
    frame_rate = parse_fps(fps.draw(st.sampled_from(FPS)))
    longer = sound((milliseconds + more) * rate // 1000)
    part, whole = (bounded(waveform, rate) for waveform in (longer[:, : milliseconds * rate // 1000], longer))
    settled = part.settled_frames(frame_rate)
    assert settled <= whole.settled_frames(frame_rate) <= whole.video_frames(frame_rate)
    assert torch.equal(part.aligned(0, settled, frame_rate), whole.aligned(0, settled, frame_rate))
    blocks = settled // FRAMES_PER_BLOCK
    some, all_of_it = (track.heard_keys(frame_rate, blocks + 1) for track in (part, whole))
    assert some is not None and all_of_it is not None
    assert some[:blocks] == all_of_it[:blocks] and len({*all_of_it}) == blocks + 1
    if whole.settled_frames(frame_rate) >= (blocks + 1) * FRAMES_PER_BLOCK:
        assert some[blocks] != all_of_it[blocks]
        after = settled, (blocks + 1) * FRAMES_PER_BLOCK - settled, frame_rate
        assert not torch.equal(part.aligned(*after), whole.aligned(*after))


@settings(max_examples=12, deadline=None)
@given(rate=st.sampled_from(RATES), samples=st.integers(0, 40_000), other=st.integers(1, 3))
def test_sound_at_another_rate_is_settled_as_soon_as_the_filter_has_seen_it(
    rate: int, samples: int, other: int
) -> None:
    longer = sound(samples + rate)
    changed = longer.clone()
    changed[:, samples:] *= 1 + other
    settled = settled_samples(samples, rate)
    ends = (
        to_encoder_rate_in_pieces(longer[:, :samples], rate),
        *(to_encoder_rate_in_pieces(waveform, rate) for waveform in (longer, changed)),
    )
    assert all(torch.equal(ends[0][:, :settled], one[:, :settled]) for one in ends)
    assert settled == 0 or source_samples(settled, rate) <= samples
    assert source_samples(settled + 1, rate) > samples


@pytest.mark.parametrize("rate", [8000, 44100])
def test_resampling_in_fixed_pieces_equals_one_go(rate: int) -> None:
    waveform = sound(12 * rate + 123, channels=2)
    torch.testing.assert_close(
        to_encoder_rate_in_pieces(waveform, rate), to_encoder_rate(waveform, rate), atol=1e-5, rtol=0
    )


def test_the_real_encoder_gives_settled_frames_the_same_bits() -> None:
    bundle = find_bundle(Path(__file__).parents[2] / "demo" / "liveavatar-demo").wav2vec2
    assert bundle is not None
    encoder = load_wav2vec2(read_weight_file(bundle)[0], read_json(bundle / "config.json"))

    fps, rate = Fraction(25), 22050
    longer = sound(5 * rate)
    whole = bounded(longer, rate, encoder.encode_prepared, BOUNDED)
    for seconds in (Fraction(1, 2), 4):
        part = bounded(longer[:, : int(seconds * rate)], rate, encoder.encode_prepared, BOUNDED)
        settled = part.settled_frames(fps)
        assert (settled > 0) == (seconds > 2)
        assert torch.equal(part.aligned(0, settled, fps), whole.aligned(0, settled, fps))


def test_frames_are_at_their_times_however_long_the_voice() -> None:
    """A feature that is its own time in seconds is read at the frame's bucket."""

    def times(samples: Tensor, rate: int) -> Tensor:
        return samples[0, : encoder_frames(samples.shape[1]) * 320 : 320, None][None]

    for seconds in (1, 7, 20):
        clock = (torch.arange(seconds * 16000) / 16000)[None]
        heard = HeardSound(clock, 16000, "", levelled=False, context=SMALL)
        track = AvatarAudio.of_bounded(EncodedWindows(times, heard, BoundedTrack(SMALL)), heard)
        read = track.aligned(0, 30 * seconds - 1, Fraction(30)).flatten()
        torch.testing.assert_close(read, torch.arange(30 * seconds - 1) / 30, atol=1e-5, rtol=0)
        assert track.aligned(30 * seconds, 12, Fraction(30)).abs().max() == 0


def test_a_voice_has_one_level_however_loud_it_was_recorded_and_a_pause_is_not_turned_up() -> None:
    """In windows as long as the pause, which hear nothing else."""
    seconds, context = 16000, BoundedContext(step=50, look_back=50, look_ahead=50)
    noise, voice = 1e-3 * sound(6 * seconds), 0.1 * sound(3 * seconds, seed=2)
    for gain in (0.3, 1, 3):
        track = torch.cat([noise, gain * voice, noise, gain * voice], dim=1) + 0.2
        heard = HeardSound(track, seconds, "", context=context)
        squares = [heard.samples(window).square().mean().item() for window in context.windows(heard.frames)]
        assert max(squares[2:4]) < 0.05 and max(squares[11:13]) < 0.02
        assert all(0.8 <= square <= 1.7 for square in (squares[7], squares[16]))


def test_a_block_is_encoded_when_it_is_needed_and_its_key_needs_nothing() -> None:
    track = bounded(sound(16000 * 20), 16000)
    assert track.heard_keys(Fraction(25), 45) is not None and track.windows is not None and track.windows.encoded == 1
    track.aligned(240, 12, Fraction(25))
    assert track.windows.encoded <= 5
    assert track.fingerprint == track.sound_key


def test_a_key_tells_what_decides_a_block_and_nothing_else() -> None:
    waveform, fps = sound(16000 * 6), Fraction(25)
    before = bounded(waveform, 16000).heard_keys(fps, 14)
    assert before is not None and len({*before}) == 14
    # Block 12 begins after the last sample.
    longer = bounded(waveform, 16000).heard_keys(fps, 20)
    assert longer is not None and longer[:14] == before and len({*longer[13:]}) == 1
    changed = waveform.clone()
    changed[:, 48000] += 1
    after = bounded(changed, 16000).heard_keys(fps, 14)
    assert after is not None
    # 3 s: heard from the window on that keeps 2.8 s, as look-ahead, and by all after it, for their level.
    assert [n for n in range(14) if before[n] != after[n]] == [*range(5, 13)]
    features = [bounded(one, 16000).aligned(0, 60, fps) for one in (waveform, changed)]
    assert torch.equal(*features)
    others = (
        bounded(waveform, 16000, encoder="another"),
        bounded(waveform, 16000, context=BoundedContext(10, 20, 10)),
        bounded(waveform, 8000),
    )
    assert all({*before}.isdisjoint(other.heard_keys(fps, 12) or ()) for other in others)


def test_an_encoder_without_a_name_has_its_features_hashed() -> None:
    fps = Fraction(25)
    longer = sound(16000 * 4)
    part, whole = (bounded(waveform, 16000, encoder="") for waveform in (longer[:, :32000], longer))
    blocks = part.settled_frames(fps) // FRAMES_PER_BLOCK
    some, all_of_it = part.heard_keys(fps, blocks), whole.heard_keys(fps, blocks)
    assert some == all_of_it and blocks == len({*(some or ())}) == 3
    assert part.sound_key == "" and part.fingerprint == part.features_fingerprint


def test_a_whole_voice_has_no_keys_by_block() -> None:
    whole = AvatarAudio(torch.zeros(1, 2, 50, 4), torch.zeros(1, 16000), 16000)
    assert whole.heard_keys(Fraction(25), 4) is None and whole.settled_frames(Fraction(25)) == 0
