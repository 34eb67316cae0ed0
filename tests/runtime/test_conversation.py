"""Several speakers: who is heard when, lazily, and what names it."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from liveavatar_runtime.audio.bounded import BoundedContext, BoundedTrack, HeardSound
from liveavatar_runtime.audio.conversation import Conversation, Span, Speaker, mixed
from liveavatar_runtime.audio.encoded_silence import EncodedSilence
from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.audio.turns import read_turns, spans_of, starts_of
from liveavatar_runtime.audio.windows import EncodedWindows, LongTrack, SampledTrack
from liveavatar_runtime.errors import InputError

FPS = Fraction(25)
SILENCE = torch.tensor(7.0)


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tone(seconds: float, rate: int, frequency: float = 440) -> Tensor:
    """[1, S]"""
    return 0.5 * torch.sin(2 * torch.pi * frequency * torch.arange(round(seconds * rate)) / rate)[None]


def audio(frames: int = 205, seed: int = 1) -> AvatarAudio:
    """So many feature frames, 50 a second."""
    return AvatarAudio(random(1, 3, frames, 4, seed=seed), torch.zeros(1, frames * 320), 16000)


def talk(*speakers: Speaker, masks: Tensor | None = None) -> Conversation:
    tracks = {id(one.audio): (one.audio, one.start) for one in speakers if one.audio is not None}
    waveform, rate = mixed(list(tracks.values()))
    layers, width = next(one.audio.encoded_to for one in speakers if one.audio is not None)
    masks = torch.ones(len(speakers), 2, 2) if masks is None else masks
    return Conversation(speakers, masks, waveform, rate, SILENCE.expand(layers, width))


def together(voices: Sequence[AvatarAudio]) -> Conversation:
    return talk(*map(Speaker, voices))


def test_speakers_keep_their_own_alignment() -> None:
    voices = [audio(frames, seed=frames) for frames in (205, 120, 64)]
    found = together(voices)
    assert (found.actors, found.encoded_to, found.values) == (3, (3, 4), sum(v.features.numel() for v in voices))
    expected = torch.cat([voice.aligned(30, 40, FPS) for voice in voices])
    ended = (expected == 0).all(dim=2).all(dim=1)
    assert ended.sum(dim=1).tolist() == [0, 10, 38], "after 2.4 and 1.28 seconds"
    silent = torch.where(ended[:, None, None], SILENCE, expected)
    assert torch.equal(found.aligned(30, 40, FPS), silent)


def test_a_voice_begins_at_any_time() -> None:
    """At a whole frame of 25 a second all that changes is where its frames are."""
    voice = audio()
    late = talk(Speaker(audio(seed=2)), Speaker(voice, Fraction(6, 5)))
    assert late.duration == Fraction(6, 5) + voice.duration
    assert (late.aligned(0, 30, FPS)[1] == SILENCE).all()
    assert torch.equal(late.aligned(30, 60, FPS)[1], voice.aligned(0, 60, FPS)[0])
    assert torch.equal(late.aligned(55, 5, FPS)[1], voice.aligned(25, 5, FPS)[0])


def test_of_one_recording_each_hears_his_turns() -> None:
    voice = audio()
    turns = read_turns("0:00 1\n0:01 2\n0:02.01 1 2\n0:03 0\n0:03.5 1")
    found = talk(*(Speaker(voice, turns=spans_of(turns, number)) for number in (1, 2, 3)))
    whole, heard = voice.aligned(0, 100, FPS)[0], found.aligned(0, 100, FPS)
    for speaker, spans in enumerate(([(0, 25), (50, 75), (88, 100)], [(25, 75)], [])):
        is_heard = torch.zeros(100, dtype=torch.bool)
        for first, stop in spans:
            is_heard[first:stop] = True
        assert torch.equal(heard[speaker], torch.where(is_heard, whole, SILENCE)), speaker
    assert found.waveform is voice.waveform, "the recording is not copied"
    assert torch.equal(found.aligned(60, 12, FPS), heard[..., 60:72])


def windowed(frames: int, seed: int) -> tuple[AvatarAudio, EncodedWindows]:
    """A long voice that is encoded in windows of a second."""

    def encode(samples: Tensor, rate: int) -> Tensor:
        return samples[0].unfold(0, 400, 320).mean(1)[None, :, None].repeat(3, 1, 4)

    waveform = random(1, frames * 320 + 80, seed=seed)
    windows = EncodedWindows(encode, SampledTrack(waveform), LongTrack(window_seconds=1, context_seconds=0))
    return AvatarAudio.of_windows(windows, (waveform, 16000), f"sound {seed}"), windows


def test_long_voices_are_encoded_when_a_block_needs_them_and_never_copied() -> None:
    (one, first), (other, second) = windowed(1000, 1), windowed(600, 2)
    found = talk(Speaker(one), Speaker(other, Fraction(10)))
    assert (first.encoded, second.encoded) == (1, 1), "which tell their sizes"
    found.aligned(0, 12, FPS)
    assert (first.encoded, second.encoded) == (1, 1)
    found.aligned(110, 12, FPS)
    assert (first.encoded, second.encoded) == (2, 1)
    found.encode_frames(12 * 25 + 10, 12, FPS)
    assert (first.encoded, second.encoded) == (3, 2)
    assert found.by_sound and len(found.fingerprint) == 64 and first.encoded == 3, "a name encodes nothing"
    alone = torch.cat([one.aligned(12 * 25 + 10, 12, FPS), other.aligned(2 * 25 + 10, 12, FPS)])
    assert torch.equal(found.aligned(12 * 25 + 10, 12, FPS), alone)


def test_names_tell_voices_times_and_turns_apart() -> None:
    one, other = audio(), audio(seed=2)
    span = (Span(Fraction(0), Fraction(1)),)
    cases = [
        together([one, other]),
        together([other, one]),
        together([one, one]),
        talk(Speaker(one), Speaker(other, Fraction(1))),
        talk(Speaker(one), Speaker(other, turns=span)),
        talk(Speaker(one), Speaker(other), Speaker(None)),
    ]
    cases.append(replace(cases[0], silence=cases[0].silence + 1))
    assert len({case.fingerprint for case in cases}) == len(cases)
    assert together([audio(), audio(seed=2)]).fingerprint == cases[0].fingerprint
    assert one.fingerprint not in {case.fingerprint for case in cases}


SMALL = BoundedContext(step=10, look_back=20, look_ahead=5)


def bounded(waveform: Tensor, encoder: str = "one") -> AvatarAudio:
    def encode(samples: Tensor, rate: int) -> Tensor:
        return samples[0].unfold(0, 400, 320).mean(1)[None, :, None].repeat(2, 1, 3)

    heard = HeardSound(waveform, 16000, encoder, context=SMALL)
    return AvatarAudio.of_bounded(EncodedWindows(encode, heard, BoundedTrack(SMALL)), heard)


def test_what_is_settled_of_bounded_voices_keeps_its_keys() -> None:
    one, other = bounded(random(1, 50_000, seed=50_000)), bounded(random(1, 32_000, seed=2))
    longer = bounded(torch.cat([one.waveform, random(1, 9000)], dim=1))
    keys, more = (together([voice, other]).heard_keys(FPS, 8) for voice in (one, longer))
    assert keys and more and keys[:6] == more[:6] and keys != more
    assert keys != together([other, one]).heard_keys(FPS, 8)
    assert together([audio(), audio()]).heard_keys(FPS, 4) is None
    turns = read_turns("0:00 1\n0:01 2")
    halves = talk(*(Speaker(one, turns=spans_of(turns, number)) for number in (1, 2))).heard_keys(FPS, 6)
    turned = talk(*(Speaker(one, turns=spans_of(turns, number)) for number in (2, 1))).heard_keys(FPS, 6)
    assert halves and turned and not set(halves) & set(turned)
    turns = read_turns("0:00 1\n0:01.44 2")
    later = talk(*(Speaker(one, turns=spans_of(turns, number)) for number in (1, 2))).heard_keys(FPS, 6)
    assert later and [a == b for a, b in zip(halves, later, strict=True)] == [True, True, False, True, True, True]
    unknown = [bounded(random(1, 50_000), encoder="") for _ in range(2)]
    by_features = talk(*(Speaker(v, turns=spans_of(turns, n)) for n, v in enumerate(unknown, 1))).heard_keys(FPS, 4)
    assert by_features and len(set(by_features)) == 4, "without the encoder's weights the features name a block"


def test_sound_is_mixed_at_one_rate() -> None:
    low, high = tone(2, 16000, 300), tone(1, 48000, 700)
    features = torch.zeros(1, 2, 10, 3)
    sound, rate = mixed(
        [
            (AvatarAudio(features, low, 16000), Fraction(0)),
            (AvatarAudio(features, high.repeat(2, 1), 48000), Fraction(3, 2)),
        ]
    )
    assert rate == 16000 and sound.shape == (2, 40000)
    expected = low[0, 24200:31800] + tone(1, 16000, 700)[0, 200:7800]
    torch.testing.assert_close(sound[1, 24200:31800], expected, atol=2e-3, rtol=0)
    assert torch.equal(sound[0, :24000], low[0, :24000])


def test_a_mix_never_clips() -> None:
    voice = AvatarAudio(torch.zeros(1, 2, 10, 3), 1.8 * tone(1, 16000), 16000)
    sound, _ = mixed([(voice, Fraction(0))] * 2)
    torch.testing.assert_close(sound.abs().max(), torch.tensor(1.0))
    assert mixed([(voice, Fraction(0))])[0] is voice.waveform


def test_voices_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(InputError, match="different audio encoders"):
        together([audio(), replace(audio(), features=torch.zeros(1, 13, 9, 8))])
    with pytest.raises(InputError, match="cannot be mixed"):
        mixed([(AvatarAudio(torch.zeros(1, 2, 9, 3), torch.zeros(c, 100), 100), Fraction(0)) for c in (2, 6)])
    whole = AvatarAudio(torch.zeros(1, 2, 50, 3), torch.zeros(1, 16000), 16000)
    with pytest.raises(InputError, match=r"Set context in Audio Encode to the same"):
        together([bounded(random(1, 50_000)), whole])


def test_turns_are_lines_with_times() -> None:
    turns = read_turns("# who\n0:00 1\n\n0:04.5 2, 1  # both\n1:02:30 0\n1:02：31 ４".replace("４", "4"))
    assert [str(turn) for turn in turns] == ["0:00 1", "0:04.5 1 + 2", "1:02:30 0", "1:02:31 4"]
    assert read_turns("  \n# nothing") == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1 0:00", r"line 1 of turns is '1 0:00'"),
        ("0:00", r"line 1 of turns is '0:00'. A line is a time and the number"),
        ("0:00 1\n0:75 2", r"line 2 of turns: '0:75' is no time"),
        ("0:00 5", "allowed are 1 to 4"),
        ("0:00 0 1", "0 alone for nobody"),
        ("0:04 1\n0:04 2", r"line 2 of turns begins at 0:04, not after the one above it"),
        ("0:04 one", "the number of who speaks"),
    ],
)
def test_lines_that_cannot_be_read_are_told(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_turns(text)


def test_one_after_another_each_begins_when_the_one_before_ends() -> None:
    lengths = [Fraction(2), Fraction(3), Fraction(1)]
    assert starts_of((), lengths) == [0, 2, 5]
    assert starts_of(read_turns("0:02.5 2"), lengths) == [0, Fraction(5, 2), Fraction(11, 2)]
    assert starts_of(read_turns("0:00 3\n0:01 1"), lengths) == [1, 3, 0]
    for text, told in (("0:00 1 2", "one of the 3 voices"), ("0:00 4", "one of the 3"), ("0:00 0", "one of the 3")):
        with pytest.raises(InputError, match=told):
            starts_of(read_turns(text), lengths)
    with pytest.raises(InputError, match=r"lets voice 1 begin again \(line 1 of turns"):
        starts_of(read_turns("0:00 1\n0:04 2\n0:08 1"), lengths)


def test_silence_is_encoded_once_and_the_same_at_every_moment() -> None:
    calls: list[Tensor] = []

    def encode(samples: Tensor, rate: int) -> Tensor:
        calls.append(samples)
        return torch.arange(samples.shape[1] * 50 // rate)[None, :, None].repeat(3, 1, 4).half()

    silence = EncodedSilence(encode)
    assert not calls
    assert torch.equal(silence.frame, torch.full((3, 4), 150.0)) and torch.equal(silence.frame, silence.frame)
    assert len(calls) == 1 and calls[0].shape == (1, 6 * 16000) and not calls[0].any()


def test_one_speaker_is_named_as_before_there_were_several() -> None:
    """By keys of the version before; spools are found by them."""
    features = torch.arange(1 * 2 * 90 * 3, dtype=torch.float32).reshape(1, 2, 90, 3) / 1000
    voice = AvatarAudio(features, torch.zeros(1, 90 * 320), 16000)
    assert voice.fingerprint == "c413f6a7802a11b14dfcd3af62374ef78af9f0563c8f5e3a491e20d1cf98da67"
    keys = bounded((torch.arange(30000) % 97 / 97.0)[None]).heard_keys(FPS, 5)
    assert keys and [key[:16] for key in keys] == [
        *("6134eb450e76c0a9", "e623da8800b05f6b", "ac18b027b3772c93", "88f41a4583585aa9", "8d5eec70553b759b"),
    ]
