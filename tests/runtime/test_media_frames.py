"""Reading video files back."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from media_files import video_writer
from video_facts import VideoFacts, probe, read_frame

from liveavatar_runtime.errors import InputError

FRAMES, FPS = 61, Fraction(30000, 1001)


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """A bright column that moves 2 pixels a frame, with a keyframe every 10 frames, and 24 kHz stereo sound."""
    path = tmp_path_factory.mktemp("video") / "moving.mp4"
    with video_writer(path, 128, 32, FPS, 48000, channels=2, keyframe_interval=10) as writer:
        writer.write_audio(torch.zeros(2, 48000 * 3))
        frames = torch.zeros(FRAMES, 32, 128, 3, dtype=torch.uint8)
        for number in range(FRAMES):
            frames[number, :, 2 * number : 2 * number + 2] = 255
        writer.write_frames(frames)
    return path


def column(picture: np.ndarray) -> int:
    return int(picture.astype(int).sum((0, 2)).argmax()) // 2


def test_facts(video):
    facts = probe(video)
    # The last sample's time is rounded to the sound's clock.
    samples = round(FRAMES / FPS * 48000)
    assert facts == VideoFacts(
        frames=FRAMES,
        fps=FPS,
        width=128,
        height=32,
        codec="h264",
        start=Fraction(0),
        duration=FRAMES / FPS,
        audio_codec="aac",
        sample_rate=48000,
        channels=2,
        samples=samples,
        audio_start=Fraction(0),
        audio_duration=Fraction(samples, 48000),
    )


@pytest.mark.parametrize("index", [0, 1, 9, 10, 11, 30, 59, 60])
def test_frame_by_number(video, index):
    picture = read_frame(video, index)
    assert picture.shape == (32, 128, 3) and picture.dtype == np.uint8
    assert column(picture) == index


def test_last_frame(video):
    assert column(read_frame(video, "last")) == FRAMES - 1


def test_last_frame_of_a_file_with_reordered_frames(tmp_path):
    with av.open(str(tmp_path / "b.mkv"), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.options = 128, 32, {"bf": "3", "crf": "10"}
        for number in range(40):
            picture = np.zeros((32, 128, 3), np.uint8)
            picture[:, 2 * number : 2 * number + 2] = 255
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
    assert [column(read_frame(tmp_path / "b.mkv", index)) for index in (0, 17, "last")] == [0, 17, 39]
    assert probe(tmp_path / "b.mkv").frames == 40


def test_frames_that_do_not_exist(video):
    with pytest.raises(InputError, match=f"last one is frame {FRAMES - 1}"):
        read_frame(video, FRAMES)
    with pytest.raises(InputError, match="0 or more"):
        read_frame(video, -1)


@pytest.mark.parametrize("read", [probe, lambda path: read_frame(path, "last")], ids=["probe", "read_frame"])
def test_files_that_are_no_video(tmp_path, read):
    (tmp_path / "text.mp4").write_text("not a video at all")
    (tmp_path / "empty.mp4").touch()
    with av.open(str(tmp_path / "sound.wav"), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
    for name, text in (
        ("missing.mp4", "No such file"),
        ("text.mp4", "cannot be read"),
        ("empty.mp4", "cannot be read"),
    ):
        with pytest.raises(InputError, match=text):
            read(tmp_path / name)
    with pytest.raises(InputError, match="no video stream"):
        read(tmp_path / "sound.wav")
