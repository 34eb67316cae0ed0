"""Joined files: the same frames, sound in its place at every join, and words for what does not fit."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from media_files import HEIGHT, RATE, WIDTH, decoded, decoded_sound, number_of, numbered_frames, tone, video_writer
from video_facts import probe

from liveavatar_runtime.duration import samples_for_frames
from liveavatar_runtime.errors import InputError, MachineError
from liveavatar_runtime.media.codecs import CODECS
from liveavatar_runtime.media.join import Joining, join, joined_kind, read_parts, sound_notes

ALL_FPS = [Fraction(16), Fraction(25), Fraction(24000, 1001)]
COUNTS = (36, 12, 60)


def write_part(path: Path, first: int, count: int, fps: Fraction, sound: torch.Tensor | None, rate=RATE, **options):
    """Frames [first, first + count) of a video, and its sound of that time."""
    channels = 1 if sound is None else sound.shape[0]
    with video_writer(path, WIDTH, HEIGHT, fps, None if sound is None else rate, channels, **options) as video:
        if sound is not None:
            begin, end = (samples_for_frames(n, fps, rate) for n in (first, first + count))
            video.write_audio(sound[:, begin:end])
        frames = numbered_frames(first, count)
        video.write_frames(frames if video.bits == 8 else (frames.to(torch.int32) * 257).to(torch.uint16))


def write_parts(folder: Path, fps: Fraction, sound: torch.Tensor | None, codec="h264", counts=COUNTS, **options):
    paths, first = [], 0
    for number, count in enumerate(counts):
        paths.append(folder / f"{number}.{CODECS[codec].kind.extension}")
        write_part(paths[-1], first, count, fps, sound, codec=codec, **options)
        first += count
    return paths


def peak(heard: np.ndarray, rate: int, seconds: float) -> float:
    """Time of the loudest sample near a time."""
    begin = max(0, round((seconds - 0.02) * rate))
    return (begin + np.abs(heard[0, begin : begin + rate // 25]).argmax()) / rate


@pytest.mark.parametrize("fps", ALL_FPS, ids=str)
@pytest.mark.parametrize("codec", CODECS)
def test_frames_are_the_parts_frames_and_clicks_stay_on_them(tmp_path, codec, fps):
    """A click near both sides of every join, and one exactly on it."""
    total = samples_for_frames(sum(COUNTS), fps, RATE)
    joins = [samples_for_frames(n, fps, RATE) for n in (36, 48)]
    clicks = [RATE // 10, total - RATE // 5, *(j + d for j in joins for d in (-RATE // 10, 0, RATE // 10))]
    sound = torch.zeros(1, total)
    sound[0, clicks] = 0.9
    paths = write_parts(tmp_path, fps, sound, codec, metadata={"workflow": '{"nodes": []}', "prompt": "{}"})
    parts = read_parts(paths)
    whole = tmp_path / f"whole.{joined_kind(parts).extension}"
    seen: list[tuple[int, int]] = []
    assert (
        join(parts, whole, Joining({"prompt": '{"1": 2}'}, on_frames=lambda done, total: seen.append((done, total))))
        == 108
    )
    assert seen[-1] == (108, 108)
    pictures, times = decoded(whole)
    single = [picture for path in paths for picture in decoded(path)[0]]
    assert len(pictures) == 108 and all(np.array_equal(a, b) for a, b in zip(pictures, single, strict=True))
    assert [number_of(picture) for picture in pictures] == [n % 40 for n in range(108)]
    assert all(abs(time - n / fps) <= Fraction(1, 1000) for n, time in enumerate(times))
    heard, rate, start = decoded_sound(whole, exact=whole.suffix == ".mp4")
    assert max(abs(float(start) + peak(heard, rate, click / RATE) - click / RATE) for click in clicks) < 0.0015
    assert abs(float(start) + heard.shape[1] / rate - 108 / fps) < 1 / fps
    facts = probe(whole)
    assert (facts.frames, facts.fps, facts.codec) == (108, fps, codec)
    with av.open(str(whole)) as file:
        stored = {name.lower(): text for name, text in file.metadata.items()}
        assert stored["workflow"] == '{"nodes": []}' and stored["prompt"] == '{"1": 2}'
        assert file.streams.video[0].codec_context.codec_tag in (CODECS[codec].tag, "avc1", "av01", "\0\0\0\0", "    ")


@pytest.mark.parametrize("fps", ALL_FPS, ids=str)
def test_a_tone_runs_through_the_joins(tmp_path, fps):
    """No gap: a copy of the AAC packets would have 20 ms of silence or repetition at every join."""
    total = samples_for_frames(sum(COUNTS), fps, 48000)
    sound = tone(total, rate=48000)
    paths = write_parts(tmp_path, fps, sound, rate=48000)
    join(read_parts(paths), tmp_path / "own.mp4")
    join(read_parts(paths), tmp_path / "track.mp4", Joining(track=(sound, 48000)))
    for name in ("own", "track"):
        heard, rate, start = decoded_sound(tmp_path / f"{name}.mp4")
        assert (rate, start) == (48000, 0)
        error = np.abs(heard[0, :total] - sound.numpy()[0, : heard.shape[1]])
        for frames in (36, 48):
            middle = samples_for_frames(frames, fps, 48000)
            around = error[middle - 4800 : middle + 4800]
            # What AAC at this bit rate does to a tone anywhere; a gap would be 0.5.
            assert around.max() < 0.06 and np.sqrt((around**2).mean()) < 0.012, (name, frames)


def test_any_number_of_parts(tmp_path):
    """60 parts that are not whole numbers of sound packets, with a click in the middle of each."""
    fps, count, each = Fraction(25), 60, 7
    sound = torch.zeros(1, samples_for_frames(count * each, fps, RATE))
    clicks = [samples_for_frames(n * each + 3, fps, RATE) for n in range(count)]
    sound[0, clicks] = 0.9
    parts = read_parts(write_parts(tmp_path, fps, sound, counts=(each,) * count))
    assert join(parts, tmp_path / "whole.mp4") == count * each
    heard, rate, start = decoded_sound(tmp_path / "whole.mp4")
    assert max(abs(float(start) + peak(heard, rate, click / RATE) - click / RATE) for click in clicks) < 0.0005
    assert probe(tmp_path / "whole.mp4").frames == count * each


def test_a_joined_file_can_be_joined_again(tmp_path):
    paths = write_parts(tmp_path, Fraction(16), tone(RATE * 7))
    join(read_parts(paths[:2]), tmp_path / "two.mp4")
    join(read_parts([tmp_path / "two.mp4", paths[2]]), tmp_path / "three.mp4")
    assert [number_of(p) for p in decoded(tmp_path / "three.mp4")[0]] == [n % 40 for n in range(108)]


def test_silent_parts_and_a_track_for_them(tmp_path):
    parts = read_parts(write_parts(tmp_path, Fraction(16), None))
    join(parts, tmp_path / "silent.mp4")
    assert probe(tmp_path / "silent.mp4").audio_codec is None
    join(parts, tmp_path / "sound.mp4", Joining(track=(tone(2 * RATE, channels=2), RATE)))
    facts = probe(tmp_path / "sound.mp4")
    assert facts.frames == 108 and facts.channels == 2
    assert abs(float(facts.audio_duration or 0) - 108 / 16) < 1 / 16


def foreign(path: Path, count: int, **options) -> Path:
    """An MP4 of another program: B-frames, which are stored in another order than they are shown in."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"bf": "3", "crf": "18", **options}
        for picture in numbered_frames(0, count):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        file.mux(stream.encode(None))
    return path


def test_parts_of_other_programs(tmp_path):
    parts = read_parts([foreign(tmp_path / "a.mp4", 20), foreign(tmp_path / "b.mp4", 33)])
    join(parts, tmp_path / "whole.mp4")
    pictures, times = decoded(tmp_path / "whole.mp4")
    assert [number_of(picture) for picture in pictures] == [*range(20), *range(33)]
    assert times == [Fraction(n, 16) for n in range(53)]


def changed(folder: Path, what: str) -> list[Path]:
    """Two parts that differ in one thing."""
    first = write_parts(folder, Fraction(16), tone(RATE * 3), counts=(24,))[0]
    second = folder / "second.mp4"
    options = {"sound": tone(RATE * 3), "count": 24, "fps": Fraction(16), "rate": RATE}
    if what == "size":
        with video_writer(second, 64, 64, Fraction(16)) as video:
            video.write_frames(torch.zeros(12, 64, 64, 3, dtype=torch.uint8))
        return [first, second]
    if what == "b-frames":
        return [first, foreign(second, 24)]
    options |= {
        "fps": {"fps": Fraction(25)},
        "codec": {"codec": "hevc"},
        "pixels": {"pixel_format": "yuv444p"},
        "silent": {"sound": None},
        "rate": {"rate": 44100},
        "stereo": {"sound": tone(RATE * 3, channels=2)},
        "crf": {"crf": 40},
    }[what]
    write_part(second, 0, **options)
    return [first, second]


@pytest.mark.parametrize(
    ("what", "text", "mendable"),
    [
        ("size", r"second\.mp4.*its size is 64x64, part 1 has 64x48", False),
        ("fps", "frame rate is 25, part 1 has 16", False),
        ("codec", "codec is hevc, part 1 has h264.*reencode", True),
        ("pixels", "pixel format is yuv444p, part 1 has yuv420p", True),
        ("crf", "encoded with other settings than part 1", True),
    ],
)
def test_parts_that_do_not_fit_are_named_and_encoded_again_only_when_asked(tmp_path, what, text, mendable):
    parts = read_parts(changed(tmp_path, what))
    with pytest.raises(InputError, match=f"part 2.*{text}"):
        join(parts, tmp_path / "whole.mp4")
    assert not (tmp_path / "whole.mp4").exists()
    if not mendable:
        with pytest.raises(InputError, match="part 2"):
            join(parts, tmp_path / "whole.mp4", Joining(reencode=True))
        return
    assert join(parts, tmp_path / "whole.mp4", Joining(reencode=True)) == 48
    assert [number_of(p) for p in decoded(tmp_path / "whole.mp4")[0]] == [*range(24), *range(24)]
    facts = probe(tmp_path / "whole.mp4")
    assert facts.codec == "h264" and abs(float(facts.audio_duration or 0) - 3) < 1 / 16
    heard, rate, _ = decoded_sound(tmp_path / "whole.mp4")
    assert np.abs(heard[0, int(2 * rate) : int(2.5 * rate)]).max() > 0.4


@pytest.mark.parametrize("reencode", [False, True], ids=["copied", "encoded"])
@pytest.mark.parametrize(
    ("what", "warning", "fact", "rate", "channels"),
    [
        ("silent", "part 2 has no sound: it is silent there", None, 48000, 1),
        ("rate", None, "became mono of 48000 Hz", 48000, 1),
        ("stereo", None, "became stereo of 48000 Hz", 48000, 2),
    ],
)
@pytest.mark.parametrize("order", [1, -1], ids=["", "turned"])
def test_sound_need_not_match(tmp_path, what, warning, fact, rate, channels, reencode, order):
    parts = read_parts(changed(tmp_path, what)[::order], ["part 1", "part 2"][::order])
    warnings, facts = sound_notes(parts, with_track=False)
    assert (warning in warnings[0]) if warning else not warnings
    assert (fact in facts[0]) if fact else not facts
    assert sound_notes(parts, with_track=True) == ([], [])
    assert join(parts, tmp_path / "whole.mp4", Joining(reencode=reencode)) == 48
    heard, stored, _ = decoded_sound(tmp_path / "whole.mp4")
    assert (stored, len(heard)) == (rate, channels)
    for part, start in zip(parts, (0.0, 1.5), strict=True):
        loud = np.abs(heard[:, int((start + 0.5) * rate) : int((start + 1) * rate)]).max()
        assert loud > 0.4 if part.sample_rate else loud < 0.01


def test_parts_with_uneven_times_are_not_copied(tmp_path):
    path = tmp_path / "uneven.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number, picture in enumerate(numbered_frames(0, 12)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = number * number, Fraction(1, 16)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    with pytest.raises(InputError, match=r"part 1 \(uneven\.mp4\) has frames that are hidden, missing or unevenly"):
        join(read_parts([path]), tmp_path / "whole.mp4")


def test_files_that_are_no_videos(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(InputError, match="cannot be read as a video"):
        read_parts([tmp_path / "text.mp4"])
    with pytest.raises(InputError, match="no parts"):
        join([], tmp_path / "whole.mp4")


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    parts = read_parts(write_parts(tmp_path, Fraction(16), tone(RATE), counts=(12,)))
    with pytest.raises(MachineError, match="could not be written"):
        join(parts, tmp_path / "missing" / "whole.mp4")


def test_stopping_leaves_nothing(tmp_path):
    parts = read_parts(write_parts(tmp_path, Fraction(16), tone(RATE * 6)))

    def stop(done: int, total: int) -> None:
        raise InterruptedError

    for reencode in (False, True):
        with pytest.raises(InterruptedError):
            join(parts, tmp_path / "whole.mp4", Joining(reencode=reencode, on_frames=stop))
        assert not list(tmp_path.glob("whole*"))
