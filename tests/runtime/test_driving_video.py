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
from liveavatar_runtime.errors import InputError
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


def test_other_rates_and_no_rate_at_all_show_what_is_there_at_the_time(tmp_path):
    faster = FilePictures(VideoPart(write(tmp_path / "30.mp4", rate=Fraction(30))))
    fps = Fraction(16)
    assert numbers(faster, fps, range(20)) == [frame * 30 // 16 for frame in range(20)]
    slower = FilePictures(VideoPart(write(tmp_path / "film.mp4", rate=Fraction(24000, 1001))))
    assert numbers(slower, Fraction(25), range(40)) == [frame * 24000 // 25025 for frame in range(40)]
    assert slower.length == FRAMES / Fraction(24000, 1001)
    # In milliseconds, as of a telephone or a screen.
    times = [0, 40, 300, 310, 900, 1000, 1500]
    uneven = FilePictures(VideoPart(write(tmp_path / "vfr.mkv", times=times, pictures=numbered_frames(0, 7).numpy())))
    assert numbers(uneven, Fraction(10), range(15)) == [0, 1, 1, 2, 3, 3, 3, 3, 3, 4, 5, 5, 5, 5, 5]


def test_after_the_end_it_holds_or_begins_again(tmp_path):
    file = FilePictures(VideoPart(write(tmp_path / "a.mkv")))
    frames = range(70, 90)
    assert numbers(file, Fraction(16), frames) == [FRAMES - 1] * 20
    assert numbers(file, Fraction(16), frames, loops=True) == [frame % FRAMES for frame in frames]


def test_a_part_of_a_file_and_a_file_in_memory(tmp_path):
    path = write(tmp_path / "a.mp4", g="8")
    part = FilePictures(VideoPart(path.read_bytes(), start=0.5, duration=1.0))
    assert (part.timeline.frames, part.length) == (16, 1)
    assert numbers(part, Fraction(16), range(18)) == [*range(8, 24), 23, 23]
    assert numbers(part, Fraction(16), range(5, 3, -1)) == [13, 12]


def test_odd_sizes_turned_and_transparent_pictures(tmp_path):
    halves = np.zeros((1, 35, 51, 3), np.uint8)
    halves[:, :, :25] = 200
    odd = FilePictures(VideoPart(write(tmp_path / "odd.mkv", "ffv1", pictures=halves, pix_fmt="bgr0")))
    assert np.array_equal(odd.picture_at(Fraction(0)), halves[0])
    turned = turn(write(tmp_path / "turned.mp4", pictures=np.repeat(halves[:, :34, :50], 3, axis=0)))
    assert turned.picture_at(Fraction(0)).shape == (50, 34, 3)
    up, down = turned.picture_at(Fraction(0))[:20].mean(), turned.picture_at(Fraction(0))[-20:].mean()
    assert (up < 20 and down > 180) or (up > 180 and down < 20)
    half = np.full((1, 16, 16, 4), 128, np.uint8)
    see_through = FilePictures(VideoPart(write(tmp_path / "a.mkv", "ffv1", pictures=half, pix_fmt="bgra")))
    assert see_through.has_alpha and not odd.has_alpha
    assert (see_through.picture_at(Fraction(0)) == 64).all()


def turn(path: Path) -> FilePictures:
    """With a quarter turn in the track's header, as telephones write it."""
    content = bytearray(path.read_bytes())
    # Behind the tag: version and flags, times, track, duration, reserved, layers and volume.
    matrix = content.index(b"tkhd") + 4 + 4 + 4 * 5 + 8 + 8
    one = 1 << 16
    for place, value in enumerate((0, one, 0, -one, 0, 0, 0, 0, 1 << 30)):
        content[matrix + 4 * place : matrix + 4 * place + 4] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(content)
    return FilePictures(VideoPart(path))


def test_files_that_cannot_drive_are_refused_with_the_reason(tmp_path):
    (tmp_path / "text.mp4").write_bytes(b"no video")
    (tmp_path / "empty.mp4").touch()
    whole = write(tmp_path / "a.mp4")
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
    tiny = write(tmp_path / "tiny.mkv", "ffv1", pictures=np.zeros((1, 8, 40, 3), np.uint8), pix_fmt="bgr0")
    for part, why in (
        (VideoPart(tmp_path / "gone.mp4"), "gone.mp4 cannot be read as a video"),
        (VideoPart(tmp_path / "text.mp4"), "text.mp4 cannot be read as a video"),
        (VideoPart(tmp_path / "empty.mp4"), "empty.mp4 cannot be read as a video"),
        (VideoPart(tmp_path / "sound.mkv"), "has no video stream"),
        (VideoPart(whole, start=60.0), "has no frames from 60 s on"),
        (VideoPart(tiny), "are 40x8 pixels; they must be at least 16x16"),
    ):
        with pytest.raises(InputError, match=why):
            FilePictures(part)


def test_a_file_that_is_closed_can_be_removed_and_read_again(tmp_path):
    path = write(tmp_path / "a.mp4")
    file = FilePictures(VideoPart(path))
    assert number_of(file.picture_at(Fraction(1))) == 16
    file.close()
    path.rename(tmp_path / "b.mp4")
    with pytest.raises(InputError, match="cannot be read as a video"):
        file.picture_at(Fraction(1))
    (tmp_path / "b.mp4").rename(path)
    assert number_of(file.picture_at(Fraction(2))) == 32
