"""Files that cannot be finished: the disk is full at any moment, or somebody changes the file while it grows."""

import json
import os
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from media_files import HEIGHT, RATE, WIDTH, decoded, decoded_sound, numbered_frames, run_python, tone, video_writer
from video_facts import probe

from liveavatar_runtime.errors import InputError, MachineError
from liveavatar_runtime.media import join as joining
from liveavatar_runtime.media.codecs import CODECS
from liveavatar_runtime.media.growing_file import OutputLostError, playable_frames
from liveavatar_runtime.media.join import Joining, join, read_parts
from liveavatar_runtime.media.video import VideoWriter

FULL_DISK = """
import json, resource, signal, sys
from fractions import Fraction
from pathlib import Path
from liveavatar_runtime.errors import MachineError
from liveavatar_runtime.media.video import VideoWriter
from media_files import *
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
noise = torch.randint(0, 255, (12, HEIGHT, WIDTH, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
told = {}
for path, codec, limit in CASES:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        with video_writer(path, WIDTH, HEIGHT, Fraction(16), RATE, codec=codec) as video:
            for block in range(4):
                video.write_frames(noise)
                video.write_audio(tone(12000))
    except MachineError as error:
        told[path] = str(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(json.dumps(told))
"""
LAST_SOUND = """
import resource, signal
from liveavatar_runtime.media import video as writing
from liveavatar_runtime.media.video import VideoWriter
from media_files import *
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
finish, sizes = writing._with_index_in_front, []

def noting(file, *arguments):
    # Without the index at the end, whose size is what comes last.
    data = file.path.read_bytes()
    sizes.append(len(data) - int.from_bytes(data[-4:], "big"))
    return finish(file, *arguments)

writing._with_index_in_front = noting
for missing in (0, 100):
    if missing:
        resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[0] - missing, resource.RLIM_INFINITY))
    with video_writer(PATH, WIDTH, HEIGHT, Fraction(16), RATE) as video:
        video.write_frames(numbered_frames(0, 24))
        video.write_audio(tone(24000))
"""
LIMITS = [1, 700, 15000, 40000]
ENOUGH = {"hevc": 70000, "h264": 70000, "vp9": 70000, "av1": 70000, "ffv1": 150000}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of files")
def test_a_disk_that_refuses_the_last_sound_is_told(tmp_path):
    """FFmpeg says nothing when it closes a file."""
    done = run_python(LAST_SOUND.replace("PATH", repr(str(tmp_path / "a.mp4"))))
    assert done.returncode and "packets that were written last: the disk was full" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of files")
def test_full_disk_leaves_a_file_that_plays_or_none_and_says_which(tmp_path):
    """A limit on the size of files stands for the full disk, at moments from the first byte on."""
    cases = [
        (str(tmp_path / f"{codec}_{limit}.{settings.kind.extension}"), codec, limit)
        for codec, settings in CODECS.items()
        for limit in (*LIMITS, ENOUGH[codec])
    ]
    done = run_python(FULL_DISK.replace("CASES", repr(cases)))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert list(told) == [path for path, _, _ in cases]
    for path, codec, limit in cases:
        text = told[path]
        assert "could not be written any further" in text and "Free some space on the disk" in text
        if not Path(path).exists():
            assert "Nothing of it plays, so nothing of it was kept." in text and limit < ENOUGH[codec]
            continue
        times = decoded(Path(path))[1]
        assert f"Its first {len(times)} frames (" in text and len(times) == playable_frames(Path(path)) > 0
        assert all(abs(time - Fraction(n, 16)) <= Fraction(1, 1000) for n, time in enumerate(times))
        assert limit < ENOUGH[codec] or decoded_sound(Path(path), exact=False)[0].shape[1] > 0
    assert not list(tmp_path.glob("*_1.*"))


def by_another(meddle, path: Path) -> None:
    """Done by another program; Windows itself refuses most of it while the file is open."""
    try:
        meddle(path)
    except PermissionError as error:
        pytest.skip(f"the system protects the file: {error}")


def write(path: Path, meddle, codec: str) -> VideoWriter:
    video = video_writer(path, WIDTH, HEIGHT, Fraction(16), RATE, codec=codec, advice="Clips are kept.")
    with video:
        for block in range(6):
            if block == 3:
                by_another(meddle, path)
            video.write_frames(numbered_frames(12 * block, 12))
            video.write_audio(tone(12000, 12000 * block))
    return video


def remove(path: Path) -> None:
    path.unlink()


def move(path: Path) -> None:
    path.rename(path.with_name("moved"))


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"of somebody else")
    os.replace(other, path)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def shorten(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"something")


@pytest.mark.not_on_windows
@pytest.mark.parametrize("codec", ["h264", "ffv1"])
@pytest.mark.parametrize(
    ("meddle", "reads"),
    [
        (remove, "was removed or moved .*Nothing of it plays"),
        (move, "was removed or moved .*Nothing of it plays"),
        (replace, "was replaced by another one .*Nothing of it plays"),
        (empty, r"it has 0 bytes instead of \d+.*Nothing of it plays"),
        (shorten, "was changed by another program.*frames .* play"),
        (append, "was changed by another program.*Its first .* play"),
    ],
)
def test_an_output_that_somebody_changes_while_it_grows_is_no_success(tmp_path, meddle, reads, codec):
    path = tmp_path / f"a.{CODECS[codec].kind.extension}"
    with pytest.raises(OutputLostError, match=f"(?s){reads}.*run again. Clips are kept."):
        write(path, meddle, codec)
    if meddle is replace:
        assert path.read_bytes() == b"of somebody else"
    elif meddle in (shorten, append):
        assert playable_frames(path) == len(decoded(path)[0]) > 12
    else:
        assert not path.exists()
    # What was moved away plays where it is now.
    assert meddle is not move or playable_frames(tmp_path / "moved") >= 24
    assert {file.name for file in tmp_path.iterdir()} <= {path.name, "moved"}


def test_an_output_that_is_removed_at_the_end_is_no_success(tmp_path, monkeypatch):
    """Between the last frame and the index, which is when the file is copied."""
    from liveavatar_runtime.media import video

    real = video._copy_packets

    def remove_first(path: Path, *arguments) -> Counter[int]:
        path.unlink()
        return real(path, *arguments)

    monkeypatch.setattr(video, "_copy_packets", remove_first)
    with pytest.raises(OutputLostError, match="was removed or moved"):
        write(tmp_path / "a.mp4", lambda path: None, "h264")
    assert not list(tmp_path.iterdir())


@pytest.mark.not_on_windows
@pytest.mark.parametrize("reencode", [False, True])
def test_a_joined_file_that_somebody_replaces_stays_theirs(tmp_path, monkeypatch, reencode):
    for name in ("1.mp4", "2.mp4"):
        write(tmp_path / name, lambda path: None, "h264")
    monkeypatch.setattr(joining, "REPORT_FRAMES", 1)
    parts, path, meddled = read_parts([tmp_path / "1.mp4", tmp_path / "2.mp4"]), tmp_path / "a.mp4", []

    def meddle(done: int, total: int) -> None:
        if done > total // 2 and not meddled:
            meddled.append(by_another(replace, path))

    with pytest.raises(MachineError, match="was replaced by another one"):
        join(parts, path, Joining(reencode=reencode, on_frames=meddle))
    assert path.read_bytes() == b"of somebody else"


@pytest.mark.parametrize("reencode", [False, True])
def test_a_joined_file_is_removed_when_the_user_stops(tmp_path, monkeypatch, reencode):
    write(tmp_path / "1.mp4", lambda path: None, "h264")
    monkeypatch.setattr(joining, "REPORT_FRAMES", 1)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        join(read_parts([tmp_path / "1.mp4"]), tmp_path / "a.mp4", Joining(reencode=reencode, on_frames=stop))
    assert [file.name for file in tmp_path.iterdir()] == ["1.mp4"]


def test_a_part_that_loses_frames_while_it_is_joined_is_refused(tmp_path):
    for name in ("1.mkv", "2.mkv"):
        write(tmp_path / name, lambda path: None, "ffv1")
    parts = read_parts([tmp_path / "1.mkv", tmp_path / "2.mkv"])
    assert probe(tmp_path / "2.mkv").frames == 72
    os.truncate(tmp_path / "2.mkv", (tmp_path / "2.mkv").stat().st_size // 2)
    with pytest.raises(InputError, match=r"part 2 .*was changed while it was joined: \d+ of its 72 frames are there"):
        join(parts, tmp_path / "a.mkv")
    assert not (tmp_path / "a.mkv").exists()
