"""What a live video is written to: sound and picture exact, outputs that fail alone, a window that stays as it is."""

import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from comfy_server import free_port

from liveavatar_runtime.errors import InputError
from liveavatar_runtime.live.fragments import Fragments
from liveavatar_runtime.live.hls import BEGINNING, FILE_NAME, PLAYLIST, HlsWindow
from liveavatar_runtime.live.packets import Packet, PacketOutput, Tracks
from liveavatar_runtime.live.push import Push, read_push_targets
from liveavatar_runtime.live.writer import LiveWriter, WriterHooks
from liveavatar_runtime.media.live import Piece
from liveavatar_runtime.media.video import AudioTrack, PictureTrack, VideoWriter

RATE, BLOCK = 48000, 12
SOUND = AudioTrack(RATE)


def picture(fps: Fraction = Fraction(25), size: int = 64) -> PictureTrack:
    return PictureTrack(size, size, fps)


def frames(first: int, count: int = BLOCK, size: int = 64) -> np.ndarray:
    """Grey pictures, each of its own number."""
    grey = np.arange(first, first + count) % 100 * 2 + 20
    return np.broadcast_to(grey[:, None, None, None], (count, size, size, 3)).astype(np.uint8)


class Shown:
    """What a page would get."""

    def __init__(self) -> None:
        self.beginning, self.mime, self.pieces = b"", "", list[Piece]()

    def __call__(self, beginning: bytes, mime: str, pieces: list[Piece]) -> None:
        self.beginning, self.mime = beginning, mime
        self.pieces.extend(pieces)

    def file(self, first: int = 0) -> BytesIO:
        return BytesIO(self.beginning + b"".join(piece.data for piece in self.pieces[first:]))


def write(writer: LiveWriter, sound: np.ndarray, blocks: int, fps: Fraction, ahead: int) -> None:
    given = 0
    for block in range(blocks):
        end = int(BLOCK * (block + 1) / fps * RATE) + ahead
        writer.write_audio(sound[:, given:end])
        given = min(end, sound.shape[1])
        writer.write_frames(frames(BLOCK * block))


@pytest.mark.parametrize(("fps", "ahead"), [(25, 2048), (16, 0), (Fraction(24000, 1001), 2048), (12, 5000)])
def test_every_frame_and_every_sample_at_its_time(fps, ahead):
    fps, blocks = Fraction(fps), 10
    total = int(BLOCK * blocks / fps * RATE)
    clicks = [0, 4800, int(1.3 * RATE), total - RATE // 4]
    sound = np.zeros((1, total), np.float32)
    sound[0, clicks] = 0.9
    shown, written = Shown(), list[tuple[int, int]]()
    hooks = WriterHooks(on_written=lambda frame: written.append((frame, len(shown.pieces))))
    with LiveWriter(picture(fps), SOUND, [Fragments(shown)], hooks) as writer:
        write(writer, sound, blocks, fps, ahead)
        # No frame waits for a later one, and each hook comes behind its pieces.
        assert [frame for frame, _ in written] == [BLOCK * (block + 1) for block in range(blocks)]
        assert len(shown.pieces) == written[-1][1]
        assert times_and_greys(shown.file())[0] == [frame / fps for frame in range(BLOCK * blocks)]
    assert shown.mime.startswith('video/mp4; codecs="avc1.') and shown.mime.endswith(', mp4a.40.2"')
    times, greys = times_and_greys(shown.file())
    assert times == [frame / fps for frame in range(BLOCK * blocks)]
    assert all(abs(grey - frames(number, 1)[0, 0, 0, 0]) < 6 for number, grey in enumerate(greys))
    start, heard = decoded_sound(shown.file())
    assert start == 0 and heard.shape[1] >= total
    for click in clicks:
        assert abs(click - max(0, click - 480) - np.abs(heard[0, max(0, click - 480) : click + 480]).argmax()) == 0, (
            click
        )
    # Who comes late begins with any piece that starts with a keyframe, at its own time.
    late = [number for number, piece in enumerate(shown.pieces) if piece.starts][2]
    gop = writer._encoder.tracks.gop
    assert times_and_greys(shown.file(late))[0] == [frame / fps for frame in range(2 * gop, BLOCK * blocks)]


def times_and_greys(file: BytesIO) -> tuple[list[Fraction], list[float]]:
    with av.open(file) as container:
        pictures = list(container.decode(video=0))
    return [frame.pts * frame.time_base for frame in pictures], [
        float(frame.to_ndarray(format="gray").mean()) for frame in pictures
    ]


def decoded_sound(file: BytesIO) -> tuple[Fraction, np.ndarray]:
    """Time of the first sample that is heard, and samples [C, S]."""
    with av.open(file) as container:
        parts = list(container.decode(audio=0))
    assert parts[0].pts is not None and parts[0].time_base is not None
    return parts[0].pts * parts[0].time_base, np.concatenate([part.to_ndarray() for part in parts], 1)


def test_after_weeks_the_times_are_still_exact() -> None:
    shown, weeks = Shown(), 21 * 86400
    with LiveWriter(picture(), SOUND, [Fragments(shown)]) as writer:
        encoder = writer._encoder
        assert encoder._sound is not None
        writer.write_audio(np.zeros((1, 2 * 23040), np.float32))
        writer.write_frames(frames(0, 24))
        # Three weeks later, as far as the encoder knows.
        begun = len(shown.pieces)
        encoder.frames, encoder._sound.taken = weeks * 25, weeks * RATE
        sound = np.zeros((1, 2 * RATE), np.float32)
        sound[0, RATE] = 0.9
        writer.write_audio(sound)
        for block in range(3):
            writer.write_frames(frames(BLOCK * block))
    assert times_and_greys(shown.file())[0][24:] == [weeks + Fraction(frame, 25) for frame in range(36)]
    times = [fragment_times(piece.data) for piece in shown.pieces]
    assert min(found[1] for found in times[begun:] if 1 in found) == weeks * 12800
    assert times[-1][2] == pytest.approx((weeks + 1) * RATE, abs=RATE)


def fragment_times(data: bytes) -> dict[int, int]:
    """By track."""
    found: dict[int, int] = {}
    place = data.find(b"tfhd")
    while place >= 0:
        track = int.from_bytes(data[place + 8 : place + 12], "big")
        time = data.index(b"tfdt", place)
        found[track] = int.from_bytes(data[time + 8 : time + 16], "big")
        place = data.find(b"tfhd", time)
    return found


def test_the_recording_is_the_file_that_is_written_without_live(tmp_path: Path) -> None:
    fps, blocks = Fraction(25), 5
    sound = (0.3 * np.sin(np.arange(int(BLOCK * blocks / fps * RATE)) / 20))[None].astype(np.float32)

    def recorder(name: str) -> VideoWriter:
        return VideoWriter(tmp_path / name, picture(), SOUND, {"workflow": "{}"})

    with LiveWriter(picture(), SOUND, [Fragments(Shown())], recording=recorder("live.mp4")) as live:
        write(live, sound, blocks, fps, 2048)
    with recorder("plain.mp4") as plain:
        for block in range(blocks):
            plain.write_audio(sound[:, block * 23040 : (block + 1) * 23040])
            plain.write_frames(frames(BLOCK * block))
    assert (tmp_path / "live.mp4").read_bytes() == (tmp_path / "plain.mp4").read_bytes()


def test_a_recording_that_fails_hurts_nobody(tmp_path: Path) -> None:
    shown, said = Shown(), list[str]()
    recording = VideoWriter(tmp_path / "live.mp4", picture(), SOUND)
    with LiveWriter(picture(), SOUND, [Fragments(shown)], WriterHooks(said.append), recording) as writer:
        writer.write_frames(frames(0))
        (tmp_path / "live.mp4").write_bytes(b"somebody else's")
        for block in range(1, 4):
            writer.write_frames(frames(BLOCK * block))
    assert len(times_and_greys(shown.file())[0]) == 48
    assert len(said) == 1 and said[0].startswith("The recording of the live video has stopped, the live video goes on:")


class Failing:
    """An output that its network leaves for some time."""

    name = "a server"

    def __init__(self) -> None:
        self.fails = False
        self.opened, self.closed, self.taken = 0, 0, list[list[Packet]]()

    def open(self, tracks: Tracks) -> PacketOutput:
        self.opened += 1
        self.taken.append([])
        return self

    def take(self, packets: Sequence[Packet]) -> None:
        if self.fails:
            raise ConnectionResetError(104, "Connection reset by peer")
        self.taken[-1].extend(packets)

    def close(self) -> None:
        self.closed += 1


def test_an_output_that_fails_is_told_once_and_begins_again_with_a_keyframe() -> None:
    failing, shown, said = Failing(), Shown(), list[str]()
    with LiveWriter(picture(), SOUND, [failing, Fragments(shown)], WriterHooks(said.append)) as writer:
        for block in range(60):
            failing.fails = 5 <= block < 20
            writer.write_frames(frames(BLOCK * block))
    assert len(times_and_greys(shown.file())[0]) == 720
    assert [line.partition(".")[0] for line in said] == [
        "Live video to a server has stopped: Connection reset by peer",
        "Live video to a server goes on",
    ]
    assert failing.opened == failing.closed == len(failing.taken) > 2
    for packets in (taken for taken in failing.taken if taken):
        first = next(packet for packet in packets if packet.is_picture)
        assert first.is_key and first.time == 0
        sounds = [packet.time for packet in packets if not packet.is_picture]
        assert all(-1024 <= time < 4096 for time in sounds[:1])


def test_the_hls_window_stays_as_it_is_and_is_removed(tmp_path: Path) -> None:
    folder, sizes = tmp_path / "hls", list[tuple[int, int]]()
    rng = np.random.default_rng(0)
    with LiveWriter(picture(), SOUND, [HlsWindow(folder)]) as writer:
        for block in range(240):
            writer.write_audio(rng.normal(0, 0.1, (1, 23040)).astype(np.float32))
            writer.write_frames(rng.integers(0, 255, (BLOCK, 64, 64, 3), np.uint8))
            if block >= 20:
                found = list(folder.iterdir())
                sizes.append((len(found), sum(path.stat().st_size for path in found)))
                assert all(FILE_NAME.fullmatch(path.name.removesuffix(".tmp")) for path in found)
        playlist = (folder / PLAYLIST).read_text("utf-8")
        assert playlist.count(".m4s") == 6 and f'URI="{BEGINNING}"' in playlist
        assert "#EXT-X-TARGETDURATION:1\n" in playlist and str(tmp_path) not in playlist
        names = [BEGINNING, *(line for line in playlist.splitlines() if line.endswith(".m4s"))]
        seen, _ = times_and_greys(BytesIO(b"".join((folder / name).read_bytes() for name in names)))
    assert {end - start for start, end in itertools.pairwise(seen)} == {Fraction(1, 25)} and len(seen) == 6 * 24
    assert max(count for count, _ in sizes) <= 11
    assert max(size for _, size in sizes[40:]) <= 1.02 * max(size for _, size in sizes[:40])
    assert not folder.exists()


RTMP_SERVER = """
import av, sys
with av.open(f"rtmp://127.0.0.1:{sys.argv[1]}/live/key", options={"listen": "1", "analyzeduration": "1"}) as source:
    for number, packet in enumerate(source.demux()):
        print(packet.stream.type, float(packet.pts * packet.time_base), flush=True)
        if number == 100:
            break
"""
"""FFmpeg as a server that takes the beginning of one stream."""


def until(met: Callable[[], bool], act: Callable[[], Any]) -> None:
    """Acts until it is so, at most a minute."""
    pause = threading.Event()
    for _ in range(1500):
        if met():
            return
        act()
        pause.wait(0.04)
    raise AssertionError("it did not come to that")


def test_pushes_to_a_server_that_comes_late() -> None:
    """The encoder never waits, a server that is not there is told without its address, and tried again."""
    said, shown, block = list[str](), Shown(), iter(range(10**6))

    def write_block() -> None:
        writer.write_frames(frames(BLOCK * next(block)))

    port = free_port()
    target = Push("my channel", f"rtmp://127.0.0.1:{port}/live/key")
    with LiveWriter(picture(), SOUND, [target, Fragments(shown)], WriterHooks(said.append)) as writer:
        until(lambda: bool(said), write_block)
        assert said[0].startswith("Live video to my channel has stopped: ") and "key" not in said[0]
        command = [sys.executable, "-c", RTMP_SERVER, str(port)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            until(lambda: server.poll() is not None, write_block)
            assert server.stdout is not None
            got = [line.split() for line in server.stdout]
    assert {kind for kind, _ in got} == {"video", "audio"}
    times = [float(time) for kind, time in got if kind == "video"]
    assert times == sorted(times) and len(times) > 20


def test_targets_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "push_targets.json"
    assert read_push_targets(tmp_path) == {}
    path.write_text('{"频道 1": "rtmps://live.example:443/app/key", "b": "rtmp://127.0.0.1/x"}', "utf-8")
    assert list(read_push_targets(tmp_path)) == ["频道 1", "b"]
    for text in (
        '{"a": "http://x/y"}',
        '{"a": "rtmp:///key"}',
        '{"a": "rtmp://secret.example:bad/key"}',
        '{"a": "file:///etc/passwd"}',
        '{"a": 5}',
        '{"a/b": "rtmp://x/y"}',
        '{"a": "rtmp://x/secret\\n"}',
        "[1]",
        "{",
        '{"a": "rtmp://x/y", "a": "rtmp://x/z"}',
        "{" + " " * 70000 + "}",
    ):
        path.write_text(text, "utf-8")
        with pytest.raises(InputError) as told:
            read_push_targets(tmp_path)
        assert path.name in str(told.value) and "secret" not in str(told.value), text


def test_what_cannot_be_written_is_said() -> None:
    with LiveWriter(picture(), None, []) as writer:
        with pytest.raises(InputError, match="no sound track"):
            writer.write_audio(np.zeros((1, 5), np.float32))
        with pytest.raises(InputError, match=r"takes uint8 \[frames, 64, 64, 3\]"):
            writer.write_frames(np.zeros((1, 32, 32, 3), np.uint8))
    with pytest.raises(InputError, match="is closed"):
        writer.write_frames(frames(0))
    with pytest.raises(InputError, match="must have 48000"):
        LiveWriter(picture(), AudioTrack(16000), [])
