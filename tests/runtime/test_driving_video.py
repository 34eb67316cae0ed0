"""Pictures of a driving video: of files of many kinds, at the times that the video asks for."""

import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media_files import number_of, numbered_frames

from liveavatar_runtime.duration import driving_time
from liveavatar_runtime.media.driving_video import FilePictures, PicturesInMemory, VideoPart

FRAMES = 40


def write(
    path: Path,
    codec: str = "libx264",
    rate: Fraction = Fraction(16),
    times: Sequence[int] | None = None,
    pictures: np.ndarray | None = None,
    **options: str,
) -> Path:
    """A video of numbered pictures, at a rate or at `times` in milliseconds."""
    pictures = numbered_frames(0, FRAMES).numpy() if pictures is None else pictures
    channels = pictures.shape[-1]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = options.pop("pix_fmt", "yuv420p")
        stream.options, stream.bit_rate = options, 5_000_000
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(picture), format="rgba" if channels == 4 else "rgb24"
            )
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def numbers(pictures: FilePictures | PicturesInMemory, fps: Fraction, frames: range, loops: bool = False) -> list[int]:
    times = (driving_time(frame, fps, pictures.length, loops) for frame in frames)
    return [number_of(pictures.picture_at(time)) for time in times]


KINDS = [
    ("a.mp4", "libx264", {"x264-params": "open-gop=1:keyint=8:bframes=3"}),
    ("a.mp4", "libx264", {"x264-params": "intra-refresh=1:keyint=8:bframes=0"}),
    ("a.mp4", "libx265", {"x265-params": "keyint=8:open-gop=1:bframes=3:log-level=none"}),
    ("a.mkv", "libx264", {"bf": "3", "g": "12"}),
    ("a.ts", "libx264", {"bf": "3", "g": "12"}),
    ("a.avi", "mpeg4", {"g": "12"}),
    ("a.mov", "mjpeg", {"pix_fmt": "yuvj420p"}),
    ("a.webm", "libvpx-vp9", {"g": "12"}),
    ("a.gif", "gif", {"pix_fmt": "rgb8"}),
    ("a.h264", "libx264", {"g": "12"}),
]


@pytest.mark.parametrize(("name", "codec", "options"), KINDS)
def test_a_picture_is_the_same_whether_all_before_it_was_read_or_not(tmp_path, name, codec, options):
    rate = Fraction(20) if codec == "gif" else Fraction(16)
    file = FilePictures(VideoPart(write(tmp_path / name, codec, rate, **options)))
    times = [n / (file.timeline.rate or rate) for n in range(FRAMES)]
    read = [file.picture_at(time).copy() for time in times]
    assert [number_of(picture) for picture in read] == list(range(FRAMES))
    assert file.length == FRAMES * (times[1] - times[0])
    for number in random.Random(1).sample(range(FRAMES), 12):
        file.close()
        assert np.array_equal(file.picture_at(times[number]), read[number]), number
    file.close()


def test_a_later_picture_is_found_without_decoding_all_before_it(tmp_path):
    file = FilePictures(VideoPart(write(tmp_path / "a.mp4", g="8", bf="0")))
    before = file.decoded
    assert number_of(file.picture_at(Fraction(37, 16))) == 37
    assert file.decoded - before <= 16
