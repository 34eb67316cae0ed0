"""The sound of a live session: one clock, many sources, nothing that grows."""

import threading
import time

import numpy as np
import pytest
from simulated_clock import PERIOD, Microphone, SimulatedClock

from liveavatar_runtime.errors import InputError, MachineError
from liveavatar_runtime.live.clock import Clock
from liveavatar_runtime.live.lag import LagPolicy
from liveavatar_runtime.live.samples import FADE, SOUND_RATE, Samples
from liveavatar_runtime.live.sound import CHECKED_EVERY, Limits, LiveSound, Options


def tone(seconds: float, level: float = 0.5, hertz: float = 220) -> Samples:
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * SOUND_RATE)) / SOUND_RATE)).astype(np.float32)


def hear(sound: LiveSound, seconds: float, block: int = SOUND_RATE // 2) -> Samples:
    """The next seconds, as a consumer asks for them."""
    first, end = sound.position, sound.position + round(seconds * SOUND_RATE)
    parts: list[Samples] = []
    for start in range(first, end, block):
        stop = min(end, start + block)
        assert sound.wait_until(stop)
        parts.append(sound.read(start, stop)[0].numpy())
    return np.concatenate(parts)


def test_nobody_speaks_and_it_never_runs_dry() -> None:
    clock = SimulatedClock()
    sound = LiveSound(clock)
    began = clock.time
    assert not hear(sound, 100).any() and sound.lag == 0
    assert clock.time - began == pytest.approx(100, abs=0.01)
    assert sound.due(SOUND_RATE) == pytest.approx(began + 1)


def test_a_microphone_with_a_wrong_clock_stays_in_step() -> None:
    """Four minutes, with pieces that come up to 30 ms late: as long after its recording at the end as at the beginning,
    without a click; without correction it would be 72 ms off."""
    parts_per_million = -300
    clock = SimulatedClock()
    sound = LiveSound(clock)
    sound.begin()
    microphone = Microphone(
        clock, sound.open_source("microphone", SOUND_RATE), parts_per_million=parts_per_million, jitter=0.03
    )
    late: list[float] = []
    for _ in range(240):
        first = sound.position
        heard = hear(sound, 1)
        told = microphone.recorded_at(heard)
        steps = np.abs(np.diff(heard))
        assert first < SOUND_RATE or np.sort(steps)[-6] < 1e-4, "but for the sawtooth's own jump, it is smooth"
        late.append(float(np.median((np.arange(first, first + len(told)) / SOUND_RATE - told) % PERIOD)))
    assert microphone.source.counts.ran_dry == 0 and microphone.source.counts.left_out == 0
    assert max(late) - min(late[2:]) < 0.04 and abs(late[-1] - 0.08) < 0.02
    assert microphone.source.speed - 1 == pytest.approx(parts_per_million * 1e-6, abs=150e-6)


def test_a_microphone_whose_pieces_are_often_late_waits_longer() -> None:
    clock = SimulatedClock()
    sound = LiveSound(clock)
    sound.begin()
    microphone = Microphone(clock, sound.open_source("microphone", SOUND_RATE), jitter=0.08)
    hear(sound, 120)
    assert 1 <= microphone.source.counts.ran_dry <= 6, "with 0.08 s alone it would be a hundred times"


def test_what_comes_too_late_is_silence_and_made_up_for() -> None:
    """A network that lets nothing through for half a second, and then all at once."""
    clock = SimulatedClock()
    sound = LiveSound(clock)
    sound.begin()
    microphone = Microphone(clock, sound.open_source("microphone", SOUND_RATE))
    hear(sound, 3)
    microphone.silent_until = clock.time + 0.5
    heard = hear(sound, 1)
    silent = int((heard == 0).sum()) / SOUND_RATE
    assert 0.3 < silent < 0.5 and np.abs(np.diff(heard)).max() < 0.05
    hear(sound, 2)
    told = microphone.recorded_at(hear(sound, 0.1))
    # Late as before: the half second that came afterwards was left out.
    assert (sound.position / SOUND_RATE - told[-1]) % PERIOD == pytest.approx(0.08, abs=0.04)
    assert microphone.source.counts.ran_dry == 1
    assert microphone.source.counts.left_out == pytest.approx(silent, abs=0.06)


def test_speech_is_queued_and_heard_sample_by_sample_at_its_own_pace() -> None:
    clock = SimulatedClock()
    sound = LiveSound(clock)
    given = tone(3)
    speech = sound.open_source("speech", SOUND_RATE)
    for part in np.array_split(given, 7):
        speech.push(part)
    speech.close()
    assert speech.queued == pytest.approx(3)
    heard = hear(sound, 4)
    start = int(np.flatnonzero(heard)[0]) - 1
    assert start < 0.1 * SOUND_RATE and np.array_equal(heard[start : start + len(given)], given)
    assert not heard[start + len(given) :].any() and not sound.sources
    assert speech.counts.ran_dry == 0
    with pytest.raises(InputError, match="the sound of speech was closed, and 3 samples came after that"):
        speech.push(given[:3])


def test_speeches_of_one_name_follow_each_other_and_others_are_mixed() -> None:
    clock = SimulatedClock()
    sound = LiveSound(clock)
    for level, name in ((0.3, "a"), (0.4, "a"), (0.9, "b")):
        speech = sound.open_source("speech", SOUND_RATE, name)
        speech.push(np.full(SOUND_RATE, level, np.float32))
        speech.close()
    heard = hear(sound, 3)
    levels = [float(np.median(heard[round(at * SOUND_RATE) :][:4800])) for at in (0.4, 1.4, 2.5)]
    assert levels == pytest.approx([1.0, 0.4, 0.0]), "0.3 + 0.9 is clipped"


def test_a_barge_in_ends_what_is_queued_without_a_click() -> None:
    clock = SimulatedClock()
    sound = LiveSound(clock)
    speech = sound.open_source("speech", SOUND_RATE)
    speech.push(tone(20))
    hear(sound, 1.003)
    assert sound.barge_in() == pytest.approx(19, abs=0.1)
    speech.push(tone(1, hertz=330))
    heard = hear(sound, 3)
    assert np.abs(np.diff(heard)).max() < 0.03
    loud = np.abs(heard) > 0.01
    assert 0.95 * SOUND_RATE < loud.sum() < 1.05 * SOUND_RATE and loud[: SOUND_RATE // 2].any()


def test_every_queue_is_bounded_and_says_so() -> None:
    sound = LiveSound(SimulatedClock(), Options(limits=Limits(speech=3, sources=2)))
    speech = sound.open_source("speech", 24_000, "of the shop")
    speech.push(np.zeros(2 * 24_000, np.int16))
    with pytest.raises(InputError, match=r"2\.0 s of speech of the shop were to be added to 2\.0 s .* and 1\.0 s more"):
        speech.push(np.zeros(2 * 24_000, np.int16))
    microphone = sound.open_source("microphone", 16_000)
    with pytest.raises(InputError, match="3.00 s of microphone came in one piece, and 2 s are allowed"):
        sound.begin()
        microphone.push(np.zeros(48_000, np.float32))
    with pytest.raises(InputError, match="2 sources of sound are open or still heard, and at most 2 are allowed"):
        sound.open_source("microphone", 16_000)
    microphone.close()
    with pytest.raises(InputError, match="rate is 4000; allowed are 8000 to 192000"):
        sound.open_source("microphone", 4000)
    with pytest.raises(InputError, match="kind is 'song'; allowed are microphone, speech"):
        sound.open_source("song", 48_000)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="float64 of shape"):
        speech.push(np.zeros(3))
    with pytest.raises(InputError, match="NaN or infinite"):
        speech.push(np.full(3, np.nan, np.float32))
    assert speech.room == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("rate", [8000, 11025, 16_000, 44_100, 96_000, 192_000])
def test_any_rate_becomes_48_khz_whatever_the_pieces(rate: int) -> None:
    given = np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32) * 0.5
    made: list[Samples] = []
    for pieces in (1, 37):
        sound = LiveSound(None)
        source = sound.open_source("microphone", rate)
        for part in np.array_split((given * 2**15).astype(np.int16), pieces):
            source.push(part)
        source.close()
        assert sound.wait_until(SOUND_RATE - 50) and not sound.wait_until(SOUND_RATE + 50)
        made.append(sound.read(0, SOUND_RATE - 50)[0].numpy())
    assert np.allclose(made[0], made[1], atol=1e-4)
    right = tone(1, 0.5, 440)[: SOUND_RATE - 50]
    assert np.abs(made[0] - right)[500:-500].max() < 2e-3


def test_a_session_that_is_behind_leaves_out_silence_or_waits() -> None:
    """Two seconds of tone, one of silence, while the sampling takes half again as long as the sound lasts."""
    for policy in (LagPolicy("wait", most=30), LagPolicy("drop silence")):
        clock = SimulatedClock()
        sound = LiveSound(clock, Options(policy))
        speech = sound.open_source("speech", SOUND_RATE)
        speech.push(np.concatenate([part for _ in range(10) for part in (tone(2), tone(1, 0.001))]))
        lags: list[float] = []
        heard: list[Samples] = []
        for _ in range(60):
            heard.append(hear(sound, 0.5))
            clock.advance(0.6)
            lags.append(sound.lag)
        spoken = int((np.abs(np.concatenate(heard)) > 0.002).sum()) / SOUND_RATE
        assert spoken == pytest.approx(20, abs=0.2), "no speech is lost"
        dropped = sound.dropped
        assert dropped.speech == 0
        if policy.rule == "wait":
            assert dropped.silence == 0 and lags[-1] == pytest.approx(6.5, abs=0.1)
        else:
            assert max(lags) < 3 and lags[-1] < 1.8 and dropped.silence > 4
        assert np.abs(np.diff(np.concatenate(heard))).max() < 0.03, "a click"


def test_the_oldest_is_left_out_of_a_backlog_that_is_too_long() -> None:
    clock = SimulatedClock()
    sound = LiveSound(clock, Options(LagPolicy("wait", most=5)))
    hear(sound, 1)
    sound.open_source("speech", SOUND_RATE).push(tone(60))
    for _ in range(80):
        clock.advance(0.25)
        _ = sound.lag
    assert sound.lag == pytest.approx(5, abs=0.01) and sound.dropped.speech == pytest.approx(15, abs=0.3)
    clock.advance(10_000)
    assert sound.lag == pytest.approx(5, abs=0.6)
    assert sound.due(sound.position) == pytest.approx(clock.time - 5, abs=0.6)


def test_pause_go_on_and_stop() -> None:
    clock = SimulatedClock()
    sound = LiveSound(clock)
    microphone = sound.open_source("microphone", SOUND_RATE)
    sound.open_source("speech", SOUND_RATE).push(tone(2))
    hear(sound, 0.5)
    sound.pause()
    due = sound.due(SOUND_RATE)
    clock.advance(100)
    microphone.push(tone(0.1))
    assert sound.is_paused and sound.lag < 0.01 and microphone.queued == 0
    assert sound.due(SOUND_RATE) == pytest.approx(due + 100)
    clock.at(clock.time + 5, sound.go_on)
    assert np.abs(hear(sound, 1)).max() == pytest.approx(0.5, abs=0.01)
    assert sound.due(SOUND_RATE) == pytest.approx(due + 105, abs=0.06)
    clock.at(clock.time + 0.2, sound.stop)
    position = sound.position
    assert not sound.wait_until(position + SOUND_RATE)
    rest = sound.read(position, position + SOUND_RATE)[0].numpy()
    assert rest[:4800].any() and not rest[12_000:].any()
    with pytest.raises(InputError, match="the live session is over"):
        sound.open_source("speech", SOUND_RATE)
    microphone.push(tone(1))


def test_sound_that_nobody_waited_for_or_that_is_old_cannot_be_read() -> None:
    sound = LiveSound(SimulatedClock(), Options(LagPolicy(most=2), Limits(kept=3)))
    hear(sound, 10)
    with pytest.raises(MachineError, match="wait for it first"):
        sound.read(9 * SOUND_RATE, 20 * SOUND_RATE)
    with pytest.raises(MachineError, match="is not kept any more"):
        sound.read(0, SOUND_RATE)
    assert sound.read(7 * SOUND_RATE, 10 * SOUND_RATE).shape == (1, 3 * SOUND_RATE)


def test_many_threads_push_while_one_waits_by_the_real_clock() -> None:
    sound = LiveSound(Clock())
    sources = [sound.open_source("speech", SOUND_RATE, str(number)) for number in range(4)]
    checks = list[float]()

    def speak(number: int) -> None:
        for _ in range(20):
            sources[number].push(np.full(480, 0.1, np.float32))
        sources[number].close()

    threads = [threading.Thread(target=speak, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    assert sound.wait_until(SOUND_RATE // 2, lambda: checks.append(time.monotonic()))
    assert time.monotonic() - began >= 0.45 and len(checks) >= 0.5 / CHECKED_EVERY - 1
    for thread in threads:
        thread.join()
    heard = sound.read(0, SOUND_RATE // 2)[0].numpy()
    assert heard.sum() == pytest.approx(4 * 20 * 480 * 0.1, rel=0.05) and not sound.sources

    stopping = threading.Timer(0.05, sound.stop)
    stopping.start()
    assert not sound.wait_until(10**9)
    stopping.join()
    assert FADE < SOUND_RATE


def test_where_programs_speak_alone_their_speech_is_known_before_it_is_due() -> None:
    """A block is there when it begins, with what was queued by then; a microphone that is opened is heard without a
    gap, and after it sound is ahead again."""
    clock, block, ahead = SimulatedClock(), SOUND_RATE // 2, 0.7
    sound = LiveSound(clock, Options(ahead=ahead))
    sound.begin()
    begun, needed = clock.time, int(ahead * SOUND_RATE)
    assert sound.wait_until(needed) and clock.time == pytest.approx(begun, abs=0.002)
    clock.advance(0.2)
    speech = sound.open_source("speech", SOUND_RATE)
    speech.push(np.full(SOUND_RATE, 0.5, np.float32))
    speech.close()
    second = sound.open_source("speech", SOUND_RATE)
    second.push(np.full(SOUND_RATE // 10, 0.25, np.float32))
    assert sound.wait_until(needed + block) and clock.time == pytest.approx(begun + 0.5, abs=0.002)
    heard = sound.read(0, needed + block)[0].numpy()
    assert not heard[:needed].any() and heard[needed + 2000 :].min() > 0.4
    assert sound.wait_until(needed + 3 * block) and clock.time == pytest.approx(begun + 1.5, abs=0.002)
    after = sound.read(needed + 2 * block, needed + 3 * block)[0].numpy()
    assert (abs(after - 0.25) < 0.01).sum() > SOUND_RATE // 10 - 2000, "the second speech follows within its block"
    second.close()
    microphone = sound.open_source("microphone", SOUND_RATE)
    for _ in range(50):
        microphone.push(np.full(960, 0.1, np.float32))
        clock.advance(0.02)
    opened = clock.time - 1
    assert sound.wait_until(needed + 4 * block) and sound.lag == pytest.approx(0.5, abs=0.03)
    heard = sound.read(needed + 3 * block, needed + 4 * block)[0].numpy()
    assert (heard > 0.05).sum() > 0.35 * SOUND_RATE, "heard from its opening on, but for its buffer"
    assert sound.due(needed + 4 * block) == pytest.approx(opened + 0.5, abs=0.03)
    microphone.close()
    clock.advance(1)
    position = int((clock.time + 2 - sound.due(0)) * SOUND_RATE)
    assert sound.wait_until(position) and sound.due(position) - clock.time == pytest.approx(ahead, abs=0.05)


def test_who_was_slow_while_nobody_spoke_has_nothing_to_catch_up_with() -> None:
    clock = SimulatedClock()
    sound = LiveSound(clock, Options(ahead=0.7))
    sound.wait_until(SOUND_RATE)
    clock.advance(30)
    sound.wait_until(2 * SOUND_RATE)
    now = clock.time
    sound.wait_until(3 * SOUND_RATE)
    assert clock.time == pytest.approx(now + 1, abs=0.01) and sound.lag == 0 and sound.dropped.speech == 0
