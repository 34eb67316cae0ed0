"""Video files: frame for frame, sound on the picture, readable while they grow, whatever ends them."""

import json
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from media_files import HEIGHT, RATE, WIDTH, decoded, decoded_sound, number_of, numbered_frames, tone, video_writer
from video_facts import probe, read_frame

from liveavatar_runtime.duration import FRAMES_PER_BLOCK, samples_for_frames
from liveavatar_runtime.errors import InputError, MachineError
from liveavatar_runtime.media.codecs import CODECS, FRAGMENT_FRAMES, MP4, VideoCodec
from liveavatar_runtime.media.file_names import MAX_NAME_BYTES

ALL_FPS = [Fraction(16), Fraction(25), Fraction(24000, 1001)]


def write(path: Path, blocks: int, fps: Fraction, rate: int | None = RATE, channels: int = 1, **options) -> None:
    with video_writer(path, WIDTH, HEIGHT, fps, rate, channels, **options) as video:
        if rate:
            video.write_audio(tone(samples_for_frames(blocks * FRAMES_PER_BLOCK, fps, rate), 0, channels, rate))
        for block in range(blocks):
            video.write_frames(numbered_frames(block * FRAMES_PER_BLOCK, FRAMES_PER_BLOCK))


@pytest.mark.parametrize("fps", ALL_FPS, ids=str)
def test_every_frame_at_its_exact_time(tmp_path, fps):
    write(tmp_path / "a.mp4", 9, fps)
    pictures, times = decoded(tmp_path / "a.mp4")
    assert times == [n / fps for n in range(9 * FRAMES_PER_BLOCK)]
    assert [number_of(picture) for picture in pictures] == [n % 40 for n in range(len(pictures))]
    facts = probe(tmp_path / "a.mp4")
    assert (facts.frames, facts.fps, facts.width, facts.height) == (9 * FRAMES_PER_BLOCK, fps, WIDTH, HEIGHT)
    assert (facts.codec, facts.audio_codec) == ("h264", "aac")
    assert (facts.start, facts.duration) == (0, 9 * FRAMES_PER_BLOCK / fps)
    assert facts.audio_start == 0 and facts.audio_duration is not None
    assert abs(facts.audio_duration - facts.duration) < Fraction(1, 1000)


@pytest.mark.parametrize(
    ("fps", "rate"),
    [*zip(ALL_FPS * 2, (16000, 16000, 16000, 8000, 37800, 44100), strict=True), (Fraction(16), 48000)],
    ids=str,
)
def test_sound_starts_stays_and_ends_with_the_picture(tmp_path, fps, rate):
    frames = 8 * FRAMES_PER_BLOCK
    total = samples_for_frames(frames, fps, rate)
    clicks = [0, rate // 10, int(1.3 * rate), int(2.777 * rate), total - rate // 4]
    sound = torch.zeros(1, total)
    sound[0, clicks] = 0.9
    with video_writer(tmp_path / "a.mp4", WIDTH, HEIGHT, fps, rate) as video:
        video.write_audio(sound)
        for first in range(0, frames, FRAMES_PER_BLOCK):
            video.write_frames(numbered_frames(first, FRAMES_PER_BLOCK))
    heard, heard_rate, start = decoded_sound(tmp_path / "a.mp4")
    for click in clicks:
        begin = max(0, round((click / rate - 0.01) * heard_rate))
        peak = begin + np.abs(heard[0, begin : begin + heard_rate // 50]).argmax()
        assert abs(float(start) + peak / heard_rate - click / rate) < 0.0005
    assert abs(float(start) + heard.shape[1] / heard_rate - frames / fps) < 1 / fps


def test_stereo_sound_in_pieces_keeps_its_sides_and_its_phase(tmp_path):
    fps, frames = Fraction(25), 60
    total = samples_for_frames(frames, fps, RATE)
    sound = torch.cat([tone(total), -0.5 * tone(total)])
    with video_writer(tmp_path / "a.mp4", WIDTH, HEIGHT, fps, RATE, channels=2) as video:
        for first in range(0, frames, 10):
            begin, end = (samples_for_frames(n, fps, RATE) for n in (first, first + 10))
            video.write_frames(numbered_frames(first, 10))
            video.write_audio(sound[:, begin:end])
    heard, heard_rate, _ = decoded_sound(tmp_path / "a.mp4")
    time = np.arange(heard.shape[1]) / heard_rate
    inside = time < frames / fps - 0.05
    expected = 0.5 * np.sin(2 * np.pi * 440 * time)
    assert np.abs(heard[0] - expected)[inside].max() < 0.03
    assert np.abs(heard[1] + 0.5 * expected)[inside].max() < 0.03


def test_missing_sound_is_silence_and_surplus_is_dropped(tmp_path):
    fps = Fraction(16)
    for name, seconds in (("short", 1), ("long", 5)):
        with video_writer(tmp_path / name, WIDTH, HEIGHT, fps, RATE) as video:
            video.write_audio(tone(seconds * RATE))
            video.write_frames(numbered_frames(0, 48))
        assert probe(tmp_path / name).audio_duration == 3
    heard, heard_rate, _ = decoded_sound(tmp_path / "short")
    assert np.abs(heard[0, : heard_rate // 2]).max() > 0.4
    assert np.abs(heard[0, int(1.1 * heard_rate) :]).max() < 0.01


def test_no_sound_track_without_a_sample_rate(tmp_path):
    write(tmp_path / "a.mp4", 2, Fraction(16), rate=None)
    facts = probe(tmp_path / "a.mp4")
    assert facts.frames == 24 and facts.audio_codec is None and facts.samples is None
    with video_writer(tmp_path / "b.mp4", WIDTH, HEIGHT, Fraction(16)) as video:
        with pytest.raises(InputError, match="sample_rate"):
            video.write_audio(tone(100))


@pytest.mark.parametrize("fps", ALL_FPS, ids=str)
@pytest.mark.parametrize("sound_blocks", [9, 3], ids=["sound to the end", "sound ends early"])
def test_blocks_are_on_the_disk_while_the_file_grows(tmp_path, fps, sound_blocks):
    path = tmp_path / "a.mp4"
    blocks = 9
    with video_writer(path, WIDTH, HEIGHT, fps, RATE, metadata={"prompt": "{}"}) as video:
        for block in range(blocks):
            first = block * FRAMES_PER_BLOCK
            video.write_frames(numbered_frames(first, FRAMES_PER_BLOCK))
            if block < sound_blocks:
                begin, end = (samples_for_frames(n, fps, RATE) for n in (first, first + FRAMES_PER_BLOCK))
                video.write_audio(tone(end - begin, begin))
            if block == 0:
                continue
            copy = tmp_path / f"{block}.mp4"
            shutil.copy(path, copy)
            pictures, times = decoded(copy)
            # Without sound to go with them, pictures wait one more block for it.
            assert len(pictures) >= (block if block < sound_blocks else block - 1) * FRAMES_PER_BLOCK
            assert times == [n / fps for n in range(len(times))]
            heard, heard_rate, start = decoded_sound(copy)
            # Behind sound that pauses, the last fragment and the encoder still wait for more.
            waiting = Fraction(0) if block < sound_blocks else FRAGMENT_FRAMES / fps + Fraction(1, 10)
            sounding = min(block, sound_blocks) * FRAMES_PER_BLOCK / fps
            assert start == 0 and heard.shape[1] / heard_rate >= sounding - waiting
            assert float(np.abs(heard).max()) > 0.4
            assert probe(copy).frames == len(pictures)
            assert number_of(read_frame(copy, "last")) == (len(pictures) - 1) % 40


def test_interruption_leaves_a_finished_file(tmp_path):
    path = tmp_path / "a.mp4"
    with pytest.raises(KeyboardInterrupt):
        with video_writer(path, WIDTH, HEIGHT, Fraction(16), RATE) as video:
            video.write_audio(tone(10 * RATE))
            video.write_frames(numbered_frames(0, 24))
            video.write_frames(numbered_frames(24, 12))
            raise KeyboardInterrupt
    facts = probe(path)
    assert facts.frames == 36 and facts.audio_duration == facts.duration == Fraction(36, 16)
    assert [number_of(picture) for picture in decoded(path)[0]] == list(range(36))
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_written_leaves_no_file(tmp_path):
    with pytest.raises(ZeroDivisionError):
        with video_writer(tmp_path / "a.mp4", WIDTH, HEIGHT, Fraction(16), RATE) as video:
            video.write_audio(tone(RATE))
            raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_index_and_metadata_are_in_front_where_comfyui_looks(tmp_path):
    texts = {
        "prompt": json.dumps({"1": {"class_type": "A", "inputs": {"text": "ü" * 30000}}}),
        "workflow": '{"nodes": []}',
    }
    write(tmp_path / "a.mp4", 3, Fraction(16), metadata=texts)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat") and b"moof" not in data
    with av.open(str(tmp_path / "a.mp4")) as file:
        assert {name: file.metadata[name] for name in texts} == texts
        assert file.streams.video[0].frames == 36
        assert file.duration == 36 / 16 * av.time_base


def test_colours_come_back_as_they_were(tmp_path):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255)]
    colours += [(255, 255, 255), (0, 0, 0), (128, 128, 128), (224, 172, 140)]
    bars = np.concatenate([np.full((64, 32, 3), colour, np.uint8) for colour in colours], axis=1)
    with video_writer(tmp_path / "a.mp4", bars.shape[1], 64, Fraction(16)) as video:
        video.write_frames(np.stack([bars] * 12))
    with av.open(str(tmp_path / "a.mp4")) as file:
        frame = list(file.decode(video=0))[-1]
    assert (int(frame.colorspace), int(frame.color_range)) == (1, 1)
    luma = frame.to_ndarray(format="yuv420p")[:64]
    picture = read_frame(tmp_path / "a.mp4", "last")
    for number, colour in enumerate(colours):
        inside = slice(number * 32 + 8, number * 32 + 24)
        assert np.abs(picture[16:48, inside].astype(int) - colour).max() <= 4, colour
        expected = 16 + 219 * np.dot((0.2126, 0.7152, 0.0722), colour) / 255
        assert abs(luma[16:48, inside].mean() - expected) < 1.5, colour


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"width": 65}, "66x48"),
        ({"height": 0}, "64x2"),
        ({"crf": 52}, "0 .*51"),
        ({"codec": "wmv"}, "available are h264"),
        ({"sample_rate": RATE, "channels": 6}, "1 or 2"),
        ({"sample_rate": 0}, "at least 1 Hz"),
    ],
)
def test_values_that_cannot_be_written(tmp_path, change, text):
    with pytest.raises(InputError, match=text):
        video_writer(**{"path": tmp_path / "a.mp4", "width": WIDTH, "height": HEIGHT, "fps": Fraction(16)} | change)
    assert not list(tmp_path.iterdir())


def test_wrong_frames_and_wrong_sound_are_refused_and_the_rest_is_kept(tmp_path):
    with video_writer(tmp_path / "a.mp4", WIDTH, HEIGHT, Fraction(16), RATE) as video:
        video.write_frames(numbered_frames(0, 12))
        with pytest.raises(InputError, match=r"\[frames, 48, 64, 3\]"):
            video.write_frames(torch.zeros(1, 48, 66, 3, dtype=torch.uint8))
        with pytest.raises(InputError, match="float32"):
            video.write_frames(torch.zeros(1, 48, 64, 3))
        with pytest.raises(InputError, match=r"\[1, samples\]"):
            video.write_audio(torch.zeros(2, 100))
        with pytest.raises(InputError, match="NaN"):
            video.write_audio(torch.full((1, 100), torch.nan))
    assert probe(tmp_path / "a.mp4").frames == 12
    with pytest.raises(InputError, match="closed"):
        video.write_frames(numbered_frames(0, 1))
    video.close()


BROKEN = {"encoder": "libx264", "kind": MP4, "pixel_formats": ("yuv420p",), "crf_range": (0, 51)}


@pytest.fixture
def broken_codec(monkeypatch):
    """A codec whose encoder refuses its options."""
    monkeypatch.setitem(CODECS, "broken", VideoCodec(**BROKEN, options={"preset": "no_such_preset"}))
    return "broken"


def test_encoder_that_does_not_open(tmp_path, broken_codec):
    with pytest.raises(MachineError, match="libx264"):
        video_writer(tmp_path / "a.mp4", WIDTH, HEIGHT, Fraction(16), codec=broken_codec)
    assert not list(tmp_path.iterdir())


def test_a_file_that_was_there_survives_an_encoder_that_does_not_open(tmp_path, broken_codec):
    (tmp_path / "a.mp4").write_bytes(b"something else")
    with pytest.raises(MachineError, match="libx264"):
        video_writer(tmp_path / "a.mp4", WIDTH, HEIGHT, Fraction(16), codec=broken_codec)
    assert (tmp_path / "a.mp4").read_bytes() == b"something else"


def test_an_encoder_that_is_missing_is_refused_before_the_file_exists(tmp_path, monkeypatch):
    monkeypatch.setitem(CODECS, "missing", VideoCodec(**{**BROKEN, "encoder": "no_such_encoder"}))
    with pytest.raises(InputError, match="no encoder no_such_encoder.*can write h264"):
        video_writer(tmp_path / "a.mp4", WIDTH, HEIGHT, Fraction(16), codec="missing")
    assert not list(tmp_path.iterdir())


def test_a_name_as_long_as_the_system_takes(tmp_path):
    path = tmp_path / ("a" * (MAX_NAME_BYTES - len(".mp4")) + ".mp4")
    write(path, 1, Fraction(16))
    assert probe(path).frames == FRAMES_PER_BLOCK and list(tmp_path.iterdir()) == [path]


def test_missing_folder(tmp_path):
    with pytest.raises(MachineError, match="No such file"):
        video_writer(tmp_path / "missing" / "a.mp4", WIDTH, HEIGHT, Fraction(16))
