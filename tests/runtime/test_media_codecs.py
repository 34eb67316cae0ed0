"""Every codec and pixel format: what comes back, with its sound, its metadata, and what a killed process leaves."""

import os
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from media_files import (
    HEIGHT,
    RATE,
    WIDTH,
    decoded,
    decoded_sound,
    number_of,
    numbered_frames,
    run_python,
    tone,
    video_writer,
)
from video_facts import probe, read_frame

from liveavatar_runtime.duration import FRAMES_PER_BLOCK, samples_for_frames
from liveavatar_runtime.errors import InputError
from liveavatar_runtime.media.codecs import AUTO, CODECS, PIXEL_FORMATS, video_format
from liveavatar_runtime.media.frames import pixel_format_of
from liveavatar_runtime.media.sound import SOUND_CODECS

WORKFLOW = {"workflow": '{"nodes": []}'}
FORMATS = [(codec, name) for codec, settings in CODECS.items() for name in settings.pixel_formats]


def brightness(picture: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 pictures as a file of so many bits takes them."""
    return picture if bits == 8 else (picture.to(torch.int32) * 257).to(torch.uint16)


def write(path: Path, codec: str, pixel_format: str, fps: Fraction, sound: torch.Tensor, blocks: int) -> None:
    options = {"codec": codec, "pixel_format": pixel_format, "metadata": {"workflow": "{}", "prompt": "[1]"}}
    with video_writer(path, WIDTH, HEIGHT, fps, RATE, **options) as video:
        video.write_audio(sound)
        for first in range(0, blocks * FRAMES_PER_BLOCK, FRAMES_PER_BLOCK):
            video.write_frames(brightness(numbered_frames(first, FRAMES_PER_BLOCK), video.bits))


@pytest.mark.parametrize(("codec", "pixel_format"), FORMATS)
def test_frames_times_sound_and_metadata(tmp_path, codec, pixel_format):
    fps, blocks = Fraction(24000, 1001), 4
    chosen = video_format(codec, pixel_format)
    path = tmp_path / f"a.{chosen.extension}"
    frames = blocks * FRAMES_PER_BLOCK
    total = samples_for_frames(frames, fps, RATE)
    clicks = [RATE // 10, int(1.3 * RATE), total - RATE // 4]
    sound = torch.zeros(1, total)
    sound[0, clicks] = 0.9
    write(path, codec, pixel_format, fps, sound, blocks)
    pictures, times = decoded(path)
    # Matroska tells times in milliseconds.
    assert all(abs(time - n / fps) <= Fraction(1, 1000) for n, time in enumerate(times)) and len(times) == frames
    assert [number_of(picture) for picture in pictures] == [n % 40 for n in range(frames)]
    heard, heard_rate, start = decoded_sound(path, exact=chosen.extension == "mp4")
    for click in clicks:
        begin = round((click / RATE - 0.01) * heard_rate)
        peak = begin + np.abs(heard[0, begin : begin + heard_rate // 50]).argmax()
        assert abs(float(start) + peak / heard_rate - click / RATE) < 0.0015
    assert abs(float(start) + heard.shape[1] / heard_rate - frames / fps) < 1 / fps
    facts = probe(path)
    assert (facts.frames, facts.fps) == (frames, fps)
    with av.open(str(path)) as file:
        assert pixel_format_of(file.streams.video[0]) == PIXEL_FORMATS[pixel_format].name
        stored = {name.lower(): text for name, text in file.metadata.items()}
        assert (stored["workflow"], stored["prompt"]) == ("{}", "[1]")
        assert abs(file.duration / av.time_base - float(frames / fps)) < 0.03
        assert file.streams.audio[0].codec_context.name == chosen.codec.kind.sound
        assert file.streams.video[0].codec_context.codec_tag == (
            chosen.codec.tag or file.streams.video[0].codec_context.codec_tag
        )
    assert number_of(read_frame(path, "last")) == (frames - 1) % 40


def noise(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, HEIGHT, WIDTH, 3), dtype=torch.uint8, generator=generator)


def test_the_lossless_codec_loses_nothing(tmp_path):
    path = tmp_path / "a.mkv"
    frames = noise(24)
    sound = torch.round(tone(24 * RATE // 16) * 32767) / 32768
    with video_writer(path, WIDTH, HEIGHT, Fraction(16), RATE, codec="ffv1") as video:
        video.write_audio(sound)
        video.write_frames(frames)
    assert np.array_equal(np.stack(decoded(path)[0]), frames.numpy())
    heard, rate, start = decoded_sound(path, exact=False)
    assert (rate, start) == (RATE, 0)
    assert np.array_equal(np.round(heard / 2**16), np.round(sound.numpy() * 2**15))


def test_ten_bits_keep_what_eight_lose(tmp_path):
    """A ramp of 16 bit values over a tenth of the range has more shades in the file of 10 bits."""
    ramp = (torch.arange(WIDTH) * 100 + 20000).to(torch.int32)[None, None, :, None].expand(12, HEIGHT, WIDTH, 3)
    shades = {}
    for name, frames in (("yuv444p", (ramp // 257).to(torch.uint8)), ("yuv444p10", ramp.to(torch.uint16))):
        path = tmp_path / f"{name}.mp4"
        with video_writer(path, WIDTH, HEIGHT, Fraction(16), codec="h264", crf=0, pixel_format=name) as video:
            video.write_frames(frames)
        with av.open(str(path)) as file:
            frame = next(file.decode(video=0))
        luma = np.frombuffer(bytes(frame.planes[0]), np.uint8 if name == "yuv444p" else np.uint16)
        shades[name] = len(np.unique(luma[:WIDTH]))
    assert shades["yuv444p10"] > 2 * shades["yuv444p"]


@pytest.mark.parametrize("codec", CODECS)
def test_a_lower_crf_is_bigger_and_better(tmp_path, codec):
    if CODECS[codec].crf_range is None:
        assert video_format(codec, AUTO, 40).crf is None
        return
    sizes, errors = [], []
    frames = torch.nn.functional.interpolate(noise(24).permute(0, 3, 1, 2)[:, :, ::4, ::4].float(), scale_factor=4)
    frames = frames.permute(0, 2, 3, 1).to(torch.uint8)
    for crf in (10, 45):
        path = tmp_path / f"{crf}.{CODECS[codec].kind.extension}"
        with video_writer(path, WIDTH, HEIGHT, Fraction(16), codec=codec, crf=crf) as video:
            video.write_frames(frames)
        sizes.append(path.stat().st_size)
        errors.append(np.abs(np.stack(decoded(path)[0]).astype(float) - frames.numpy()).mean())
    assert sizes[0] > 1.3 * sizes[1] and errors[0] < errors[1]


KILLED = """
import os, signal
from liveavatar_runtime.media.video import VideoWriter
from media_files import *
for codec, path in FILES.items():
    child = os.fork()
    if not child:
        video = video_writer(path, WIDTH, HEIGHT, Fraction(16), RATE, codec=codec, metadata=WORKFLOW)
        video.write_audio(tone(10 * RATE))
        for block in range(6):
            video.write_frames(numbered_frames(block * 12, 12))
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> dict[str, Path]:
    """Of each codec, the file whose process was killed before its end; they are forked from one that has imported."""
    folder = tmp_path_factory.mktemp("killed")
    files = {codec: folder / f"{codec}.{video_format(codec).extension}" for codec in CODECS}
    names = {codec: str(path) for codec, path in files.items()}
    done = run_python(KILLED.replace("FILES", repr(names)).replace("WORKFLOW", repr(WORKFLOW)))
    assert done.returncode == 0, done.stderr
    return files


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no process")
@pytest.mark.parametrize("codec", CODECS)
def test_file_of_a_killed_process_plays(killed, codec):
    path = killed[codec]
    pictures, times = decoded(path)
    assert len(pictures) >= 5 * FRAMES_PER_BLOCK
    # Matroska tells times in milliseconds, and does not say where the sound's first padding ends.
    rounding, padding = (0, 0) if path.suffix == ".mp4" else (Fraction(1, 1000), 0.02)
    assert all(abs(time - Fraction(n, 16)) <= rounding for n, time in enumerate(times))
    assert [number_of(picture) for picture in pictures] == [n % 40 for n in range(len(pictures))]
    heard, rate, start = decoded_sound(path, exact=False)
    assert start == 0 and heard.shape[1] / rate >= 5 * FRAMES_PER_BLOCK / 16 - padding
    with av.open(str(path)) as file:
        stored = {name.lower(): value for name, value in file.metadata.items()}
    assert {"workflow": stored["workflow"]} == WORKFLOW


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        (("wmv", AUTO, 18), "available are h264, hevc"),
        (("h264", AUTO, 52), "h264 takes 0 .* to 51"),
        (("h264", AUTO, -1), "h264 takes 0"),
        (("vp9", AUTO, 64), "vp9 takes 0 .* to 63"),
        (("av1", "yuv444p", 18), "av1 takes auto, yuv420p, yuv420p10"),
        (("h264", "rgb", 18), "h264 takes auto"),
        (("hevc", "nv12", 18), "hevc takes auto"),
    ],
)
def test_choices_that_do_not_go_together(choice, text):
    with pytest.raises(InputError, match=text):
        video_format(*choice)


def test_an_encoder_without_the_pixel_format(monkeypatch):
    monkeypatch.setitem(CODECS, "vp9", CODECS["vp9"].__class__(**{**vars(CODECS["vp9"]), "pixel_formats": ("rgb",)}))
    with pytest.raises(InputError, match="libvpx-vp9 of this PyAV cannot write bgr0; it takes yuv420p"):
        video_format("vp9")


def test_every_sound_codec_is_there():
    assert {kind.sound for kind in (settings.kind for settings in CODECS.values())} == set(SOUND_CODECS)


@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux do encoders ask for another priority")
@pytest.mark.parametrize("codec", CODECS)
def test_no_thread_becomes_a_real_time_one(tmp_path, codec):
    """As root, SVT-AV1 would get it: for its own threads and for the one that opens it."""
    chosen = video_format(codec, AUTO)
    threads = set()
    with video_writer(tmp_path / f"a.{chosen.extension}", WIDTH, HEIGHT, Fraction(16), codec=codec) as video:
        for first in range(0, 2 * FRAMES_PER_BLOCK, FRAMES_PER_BLOCK):
            video.write_frames(brightness(numbered_frames(first, FRAMES_PER_BLOCK), video.bits))
            threads |= {os.sched_getscheduler(int(name)) for name in os.listdir("/proc/self/task")}
    assert threads == {os.SCHED_OTHER} == {os.sched_getscheduler(0)}
