"""The voice of a live session: the bits of the finished sound's windows, however it comes, and memory that stays."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from liveavatar_runtime.audio.bounded import BoundedTrack, HeardSound
from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.audio.level import Memory, RecentLevel
from liveavatar_runtime.audio.wav2vec2 import load_wav2vec2
from liveavatar_runtime.audio.windows import EncodedWindows
from liveavatar_runtime.checkpoint.bundle import find_bundle
from liveavatar_runtime.checkpoint.safetensors_io import read_json, read_weight_file
from liveavatar_runtime.duration import FRAMES_PER_BLOCK, parse_fps
from liveavatar_runtime.errors import MachineError
from liveavatar_runtime.live.lag import LagPolicy
from liveavatar_runtime.live.samples import SOUND_RATE
from liveavatar_runtime.live.sound import LiveSound, Options
from liveavatar_runtime.live.voice import KEPT_SECONDS, LIVE, HearingHooks, LiveContext, LiveVoice, VoiceEncoder
from liveavatar_runtime.online_video import sound_of_frames

SMALL = LiveContext(look_back=20, look_ahead=6, memory=Memory(heard=20, noise=8, mean=10))


def words(seconds: float, seed: int = 1) -> Tensor:
    """Noise that comes and goes: [1, S] at 48 kHz."""
    noise = torch.randn(1, round(seconds * SOUND_RATE), generator=torch.Generator().manual_seed(seed))
    loudness = torch.sin(torch.arange(noise.shape[1]) / SOUND_RATE * 4).clamp(min=0.01)
    return 0.1 * loudness * noise


def whole_window(samples: Tensor, rate: int) -> Tensor:
    """An encoder of which every frame sees all that it is given, and how much that is."""
    frames = samples[0].unfold(0, 400, 320)
    of_all = torch.stack([samples.mean(), samples.std(), torch.tensor(float(samples.shape[1]))])
    return torch.cat([frames.mean(1, keepdim=True), of_all.repeat(len(frames), 1)], dim=1)[None].repeat(2, 1, 1)


def finished(sound: Tensor, encoder: VoiceEncoder, fps: Fraction) -> AvatarAudio:
    context = encoder.context.at(fps)
    heard = HeardSound(sound, SOUND_RATE, "one", encoder.levelled, context)
    return AvatarAudio.of_bounded(EncodedWindows(encoder.encode, heard, BoundedTrack(context)), heard)


def unclocked(most: float = 20.0) -> LiveSound:
    return LiveSound(None, Options(LagPolicy(most=most)))


@settings(max_examples=5, deadline=None)
@given(fps=st.sampled_from((16, 23.976, 25, 30)), seed=st.integers(0, 99))
def test_features_are_those_of_the_finished_sound_to_the_bit(fps: float, seed: int) -> None:
    """Across the borders of the pieces that are brought to 16 kHz, whatever the chunks; and the writer gets the sound
    itself."""
    rate, sound, random = parse_fps(fps), words(12.3, seed), np.random.default_rng(seed)
    encoder = VoiceEncoder(whole_window, context=SMALL)
    session = unclocked()
    voice, source = LiveVoice(session, encoder), session.open_source("speech", SOUND_RATE)
    whole = finished(sound, encoder, rate)
    blocks = whole.settled_frames(rate) // FRAMES_PER_BLOCK
    pushed, made = 0, 0

    while made < blocks:
        needed = voice.needed(made * FRAMES_PER_BLOCK, FRAMES_PER_BLOCK, rate)
        while pushed < needed:
            count = int(10 ** random.uniform(1, 5.3))
            source.push(sound[0, pushed : pushed + count].numpy())
            pushed = min(pushed + count, sound.shape[1])
        place = made * FRAMES_PER_BLOCK, FRAMES_PER_BLOCK, rate
        assert torch.equal(voice.aligned(*place), whole.aligned(*place))
        made += 1
    assert torch.equal(
        sound_of_frames(voice, rate, 0, made * FRAMES_PER_BLOCK), sound_of_frames(whole, rate, 0, made * 12)
    )


def test_the_real_encoder_gives_the_same_bits_and_hooks_are_told() -> None:
    bundle = find_bundle(Path(__file__).parents[2] / "demo" / "liveavatar-demo").wav2vec2
    assert bundle is not None
    encoder = load_wav2vec2(read_weight_file(bundle)[0], read_json(bundle / "config.json"))
    live = VoiceEncoder(encoder.encode_prepared, levelled=encoder.config.do_normalize)
    sound, fps, told = words(2.0), Fraction(25), list[tuple[int, float, float, float]]()
    session = unclocked()
    voice = LiveVoice(session, live, HearingHooks(on_heard=lambda *times: told.append(times)))
    session.open_source("microphone", SOUND_RATE).push(sound[0].numpy())
    whole = finished(sound, live, fps)
    frames = whole.settled_frames(fps) // 12 * 12
    for first in range(0, frames, 12):
        assert torch.equal(voice.aligned(first, 12, fps), whole.aligned(first, 12, fps))
    assert voice.encoded_to == whole.encoded_to and voice.broken == 0 and voice.is_live and not whole.is_live
    assert [times[0] for times in told] == list(range(0, frames, 12))
    assert all(ready <= encoded for _, _, ready, encoded in told)
    assert voice.fingerprint != LiveVoice(session, VoiceEncoder(encoder.encode_prepared, "another")).fingerprint


def test_memory_stays_and_what_is_too_old_is_told() -> None:
    encoder, fps = VoiceEncoder(whole_window, context=SMALL), Fraction(25)
    session = unclocked()
    voice, source = LiveVoice(session, encoder), session.open_source("speech", SOUND_RATE)
    sound, held = words(1.0)[0].numpy(), list[int]()
    frame = 0
    for second in range(1, 71):
        source.push(sound)
        while voice.needed(frame, 12, fps) <= second * SOUND_RATE:
            voice.aligned(frame, 12, fps)
            frame += 12
        if second % 10 == 0:
            held.append(len(voice._states) + voice._samples._kept.shape[1] + len(voice._level._heard))
    assert len({*held[2:]}) == 1
    assert voice.aligned(frame - 12, 12, fps).shape == (1, 2, 4, 12)
    with pytest.raises(MachineError, match=f"{KEPT_SECONDS} s are"):
        voice.aligned(0, 12, fps)
    with pytest.raises(MachineError, match="is not kept any more; of 70.00 s the last ones from"):
        voice.sound(0, 100)


def test_after_the_end_of_the_session_is_silence() -> None:
    encoder, fps = VoiceEncoder(whole_window, context=SMALL), Fraction(25)
    sound = words(1.0)
    session = unclocked()
    voice = LiveVoice(session, encoder)
    session.open_source("speech", SOUND_RATE).push(sound[0].numpy())
    session.stop()
    whole = finished(torch.cat([sound, torch.zeros(1, 5 * SOUND_RATE)], dim=1), encoder, fps)
    for first in range(0, 48, 12):
        assert torch.equal(voice.aligned(first, 12, fps), whole.aligned(first, 12, fps))
    assert torch.equal(voice.sound(0, 2 * SOUND_RATE), torch.cat([sound, torch.zeros(1, SOUND_RATE)], dim=1))


def test_the_wait_for_sound_can_be_broken_off() -> None:
    voice = LiveVoice(unclocked(), VoiceEncoder(whole_window, context=LIVE))

    def interrupted() -> None:
        raise KeyboardInterrupt

    voice.hooks = HearingHooks(interrupted)
    with pytest.raises(KeyboardInterrupt):
        voice.aligned(0, 12, Fraction(25))
    assert np.isfinite(voice.source.due(0))


def test_noise_does_not_look_like_speech_and_a_quiet_voice_is_turned_up() -> None:
    """Ten parts a second: noise before the first word, words with pauses, hours of noise; mean squares."""
    random, level = np.random.default_rng(1), RecentLevel(Memory())

    def hear(square: float, parts: int) -> float:
        for _ in range(parts):
            level.add((random.standard_normal(4800) * square**0.5).astype(np.float32))
        return level.level().square

    noise, quiet = 10**-4.5, 10**-3.0
    assert hear(0, 20) == hear(noise, 600) == Memory().expected, "noise alone says nothing"
    for _ in range(60):
        hear(quiet, 10)
        spoken = hear(noise, 5)
    assert 0.5 * quiet < spoken < 1.1 * quiet
    assert hear(noise, 1500) == spoken, "a pause of minutes changes nothing"
    assert len(level._heard) <= Memory().heard and len(level._squares) == Memory().noise
