"""Sound that other programs write while a session hears it: a growing file, a named pipe."""

import os
import struct
import threading
import time
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from liveavatar_runtime.errors import InputError
from liveavatar_runtime.live.lag import LagPolicy
from liveavatar_runtime.live.sound import LiveSound, Options
from liveavatar_runtime.live.sources import GrowingFile, NamedPipe, Reading, local_source, no_named_pipes

PIPES = pytest.mark.skipif(bool(no_named_pipes()), reason="no named pipes")


def samples(seconds: float, rate: int) -> np.ndarray:
    return np.random.default_rng(1).integers(-20_000, 20_000, round(seconds * rate)).astype("<i2")


def heard(sound: LiveSound, count: int) -> np.ndarray:
    """As int16, waited for."""
    assert sound.wait_until(count)
    return np.rint(sound.read(0, count)[0].numpy() * 2**15).astype(np.int16)


def eventually(what: Callable[[], bool]) -> None:
    """No test depends on how long it takes."""
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.005)


def unclocked() -> LiveSound:
    return LiveSound(None, Options(LagPolicy(most=30)))


def head(rate: int, channels: int, size: int = 0) -> bytes:
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, 2 * rate * channels, 2 * channels, 16)
    return b"RIFF" + struct.pack("<I", size) + b"WAVE" + form + struct.pack("<4sI", b"data", size)


def test_a_wav_file_is_followed_while_it_is_written(tmp_path: Path) -> None:
    """Before it is there, in the middle of its head and of a sample; in stereo."""
    path, sound, given = tmp_path / "voice.wav", unclocked(), samples(1, 48_000)
    with GrowingFile(Reading(path), sound.open_source) as reader:
        written = head(48_000, 2) + np.stack([given, given], axis=1).tobytes()
        with path.open("wb") as file:
            for start, end in ((0, 5), (5, 40), (40, 1001), (1001, len(written))):
                file.write(written[start:end])
                file.flush()
                time.sleep(0.03)
            assert np.array_equal(heard(sound, 48_000), given)
            assert not reader.wait(0) and not reader.error
    assert reader.wait(0) and not sound.sources


def test_a_finished_file_is_over_when_nothing_is_added(tmp_path: Path) -> None:
    path, sound, given = tmp_path / "voice.wav", unclocked(), samples(0.5, 48_000)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 48_000, 0, "NONE", ""))
        file.writeframes(given.tobytes())
    with local_source("growing file", Reading(path, idle=0.05), sound.open_source) as reader:
        assert np.array_equal(heard(sound, len(given)), given)
        assert not sound.wait_until(len(given) + 1) and reader.wait(60)


def test_a_file_that_is_begun_anew_is_read_again(tmp_path: Path) -> None:
    path, sound, given = tmp_path / "voice.raw", unclocked(), samples(0.2, 48_000)
    path.write_bytes(given.tobytes())
    with GrowingFile(Reading(path), sound.open_source) as reader:
        heard(sound, len(given))
        path.write_bytes(given[:4800].tobytes())
        assert np.array_equal(heard(sound, len(given) + 4800)[-4800:], given[:4800])
    assert not reader.error


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"ID3" + bytes(100), "no WAV file"), (head(48_000, 9), "9 channels of 16 bit"), (head(4000, 1), "rate is 4000")],
)
def test_a_file_of_no_use_is_told(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "voice.wav"
    path.write_bytes(data)
    with GrowingFile(Reading(path), unclocked().open_source) as reader:
        assert reader.wait(60)
    assert said in reader.error and str(path) in reader.error


def test_a_fast_program_waits_for_room_and_stops_at_once(tmp_path: Path) -> None:
    path, sound = tmp_path / "voice.raw", LiveSound(None, Options(LagPolicy(most=2)))
    path.write_bytes(samples(20, 48_000).tobytes())
    with GrowingFile(Reading(path), sound.open_source) as reader:
        eventually(lambda: sound.lag > 1.8)
        assert sound.lag <= 2
        heard(sound, 3 * 48_000)
        eventually(lambda: sound.lag > 1.8)
        began = time.monotonic()
    assert time.monotonic() - began < 10 and reader.wait(0)


@PIPES
def test_writers_of_a_pipe_come_and_go(tmp_path: Path) -> None:
    path, sound, given = tmp_path / "voice.pcm", unclocked(), samples(0.3, 48_000)
    before = threading.active_count()
    with local_source("named pipe", Reading(path, kind="microphone"), sound.open_source) as reader:
        eventually(path.exists)
        for _ in range(3):
            with path.open("wb") as pipe:
                pipe.write(given.tobytes())
        assert np.array_equal(heard(sound, 3 * len(given)), np.tile(given, 3))
    assert not path.exists() and not sound.sources and not reader.error
    assert threading.active_count() == before


@PIPES
def test_a_pipe_that_was_there_stays_and_nothing_else_is_taken_for_one(tmp_path: Path) -> None:
    path = tmp_path / "voice.pcm"
    os.mkfifo(path)
    with NamedPipe(Reading(path), unclocked().open_source):
        pass
    assert path.exists()
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    with pytest.raises(InputError, match="is no named pipe but something else"):
        NamedPipe(Reading(file), unclocked().open_source)
    with pytest.raises(InputError, match="'socket'; allowed are growing file, named pipe"):
        local_source("socket", Reading(path), unclocked().open_source)


def test_a_system_without_pipes_says_what_to_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "mkfifo", raising=False)
    with pytest.raises(InputError, match="no named pipes .* Use a growing file"):
        local_source("named pipe", Reading(tmp_path / "voice"), unclocked().open_source)
