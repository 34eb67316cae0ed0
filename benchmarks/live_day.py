"""A live session of a day, by a clock that is as fast as this machine: memory, disk, sound and picture.

    python -m benchmarks.live_day [--hours 24] [--sampled 60] [--ppm 200]

A microphone whose clock is wrong, and whose pieces come up to 30 ms late, speaks a drawn person's words over and over.
The demo model samples and decodes the first `--sampled` minutes, as ComfyUI does (`LiveLatentStream`, whose state is
written each minute); after that its frames are shown again, and sound, encoding, fragments and the HLS window go on as
before.
Each frame carries its number in its upper row, so that what is decoded at the end tells which frame stands at which
sample. Recording is off. Writes benchmarks/results/live_day.md.
"""

import argparse
import io
import platform
import tempfile
import time
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import torch
from simulated_clock import SimulatedClock

from benchmarks import ROOT
from benchmarks.quality import CPU, Demo, prepared, scene
from demo.training.voices import RATE
from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.duration import FRAMES_PER_BLOCK, samples_for_frames
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.live.directed import Directed
from liveavatar_runtime.live.fragments import Fragments
from liveavatar_runtime.live.hls import HlsWindow
from liveavatar_runtime.live.samples import SOUND_RATE
from liveavatar_runtime.live.sound import LiveSound
from liveavatar_runtime.live.state import StateFile
from liveavatar_runtime.live.stream import Keeping, LiveLatentStream
from liveavatar_runtime.live.voice import LiveVoice, VoiceEncoder
from liveavatar_runtime.live.writer import LiveWriter
from liveavatar_runtime.media.images import to_uint8_frames
from liveavatar_runtime.media.live import Piece
from liveavatar_runtime.media.video import AudioTrack, PictureTrack
from liveavatar_runtime.sampling.conditions import AlignedAudio
from liveavatar_runtime.sampling.run import SamplingRequest
from liveavatar_runtime.vae.online_decoder import OnlineDecoder

RESULTS = ROOT / "benchmarks" / "results" / "live_day.md"
FPS = Fraction(25)
HOUR = 3600
SPOKEN_SECONDS, PAUSE_SECONDS = 20.0, 20.0
KEPT_BLOCKS = 250
"""Blocks of frames that are shown again."""
BIT, BITS = 4, 16
"""Pixels of a bit's side in a frame's number; how many bits: it counts anew after 43 minutes."""
LAST_PIECES = 120
LOOKED_EVERY_BLOCKS = 10
FRAME_SECONDS = 0.04
MOST = 0.02
"""By which memory and the window may differ, from the second hour on."""


@dataclass
class Microphone:
    """Pushes a voice [S] at 48 kHz, over and over, by a clock that is `ppm` parts in a million too fast."""

    clock: SimulatedClock
    source: Any
    voice: np.ndarray
    ppm: float
    piece: int = 1920
    pushed: int = 0
    arrived: float = 0.0
    random: Any = field(default_factory=lambda: np.random.default_rng(1))

    def __post_init__(self) -> None:
        self.began, self.rate = self.clock.time, SOUND_RATE * (1 + self.ppm * 1e-6)
        self._plan()

    def _plan(self) -> None:
        recorded = self.began + (self.pushed + self.piece) / self.rate
        self.arrived = max(self.arrived, recorded + 0.03 * float(self.random.random()) ** 2)
        self.clock.at(self.arrived, self._push)

    def late(self, sound: LiveSound) -> float:
        """Seconds from a sound's recording until it is heard, of what the session has read last."""
        heard = self.pushed - self.source.buffer.level * SOUND_RATE
        return sound.position / SOUND_RATE - heard / self.rate

    def _push(self) -> None:
        places = np.arange(self.pushed, self.pushed + self.piece) % len(self.voice)
        self.source.push(self.voice[places])
        self.pushed += self.piece
        self._plan()


@dataclass
class Hour:
    """The most of an hour: resident MiB, KiB and files of the window, KiB of the state, seconds from a sound's
    recording until it is heard; the least of the last; and the sum of the windows of its looks."""

    resident: float = 0.0
    window: float = 0.0
    files: int = 0
    state: float = 0.0
    latest: float = 0.0
    soonest: float = 1.0
    windows: float = 0.0
    looks: int = 0

    def add(self, other: "Hour") -> None:
        for name in ("resident", "window", "files", "state", "latest"):
            setattr(self, name, max(getattr(self, name), getattr(other, name)))
        self.soonest = min(self.soonest, other.soonest)
        self.windows, self.looks = self.windows + other.window, self.looks + 1

    @property
    def mean_window(self) -> float:
        """KiB. A window's own bytes follow what is said in its seconds; their mean follows nothing but time."""
        return self.windows / self.looks


@dataclass
class Seen:
    """What viewers were given last."""

    beginning: bytes = b""
    pieces: deque[Piece] = field(default_factory=lambda: deque(maxlen=LAST_PIECES))

    def add(self, beginning: bytes, mime: str, pieces: list[Piece]) -> None:
        self.beginning = beginning
        self.pieces.extend(pieces)

    def video(self) -> bytes:
        """From a keyframe on."""
        kept = list(self.pieces)
        first = next(number for number, piece in enumerate(kept) if piece.starts)
        return self.beginning + b"".join(piece.data for piece in kept[first:])


def numbered(frames: np.ndarray, first: int) -> np.ndarray:
    """With each frame's number in its upper row, one square a bit."""
    for place, frame in enumerate(frames):
        for bit in range(BITS):
            frame[:BIT, bit * BIT : (bit + 1) * BIT] = 255 * ((first + place) >> bit & 1)
    return frames


def number_of(frame: np.ndarray) -> int:
    squares = (frame[1:3, bit * BIT + 1 : bit * BIT + 3].mean() > 127 for bit in range(BITS))
    return sum(1 << bit for bit, light in enumerate(squares) if light)


def sampled(demo: Demo, voice: LiveVoice, file: StateFile) -> Generator[np.ndarray, None, None]:
    """Frames [12, 64, 64, 3] of each block, as long as anybody asks."""
    ready = prepared(demo, scene(0, 4.0), 1)
    model = load_transformer(demo.bundle.model, dtype=torch.float32)
    executor = LocalExecutor(model, CPU, torch.float32)
    conditions = ready.conditions
    plan = ready.plan.without_end()
    heard = replace(conditions, audio=AlignedAudio(voice, FPS))
    stream = LiveLatentStream(
        Directed(replace(plan, fps=FPS), heard),
        ready.priming,
        lambda part, given, start, keep: executor.run(SamplingRequest(given, part, start, None, keep)),
        Keeping(file, 20),
    )
    decoder = OnlineDecoder(demo.placed_vae, stream.priming(7), "hold")
    for block in stream:
        yield to_uint8_frames(decoder.decode(block.latents)).numpy().copy()


@dataclass(frozen=True)
class Wanted:
    """Hours of video; minutes of them that are sampled; the microphone's error; minutes that this may take."""

    hours: float
    sampled: float
    ppm: float
    limit: float


def run(wanted: Wanted) -> tuple[list[Hour], Seen, LiveSound, dict[str, float]]:
    torch.set_num_threads(1)
    demo, clock, seen, told = Demo.load(ROOT / "demo" / "liveavatar-demo"), SimulatedClock(), Seen(), list[Hour]()
    sound = LiveSound(clock)
    voice = LiveVoice(sound, VoiceEncoder(demo.audio.encode_prepared, "demo", demo.audio.config.do_normalize))
    said = scene(0, SPOKEN_SECONDS).voice
    # Who talks to somebody is silent for most of the time.
    said = torch.cat([said, torch.zeros(1, int(PAUSE_SECONDS * RATE))], dim=1)
    spoken = torch.nn.functional.interpolate(said[None], scale_factor=SOUND_RATE / RATE, mode="linear")[0, 0].numpy()
    sound.begin()
    microphone = Microphone(clock, sound.open_source("microphone", SOUND_RATE), spoken, wanted.ppm)
    blocks, real = (int(seconds * FPS / FRAMES_PER_BLOCK) for seconds in (wanted.hours * HOUR, wanted.sampled * 60))
    begun, replayed_from, ends = time.process_time(), 0.0, time.monotonic() + 60 * wanted.limit
    kept: deque[np.ndarray] = deque(maxlen=KEPT_BLOCKS)
    process = psutil.Process()
    with tempfile.TemporaryDirectory() as base:
        folder, state = Path(base) / "hls", Path(base) / "state" / "key"
        state.parent.mkdir()
        outputs = [Fragments(seen.add), HlsWindow(folder)]
        with LiveWriter(PictureTrack(64, 64, FPS, crf=23), AudioTrack(SOUND_RATE), outputs) as writer:
            source, hour = sampled(demo, voice, StateFile(state)), Hour()
            for block in range(blocks):
                if time.monotonic() > ends:
                    break
                first, end = block * FRAMES_PER_BLOCK, (block + 1) * FRAMES_PER_BLOCK
                if block < real:
                    kept.append(next(source))
                    frames = kept[-1].copy()
                else:
                    if block == real:
                        source.close()
                        replayed_from = time.process_time()
                    sound.wait_until(voice.needed(first, FRAMES_PER_BLOCK, FPS))
                    frames = kept[block % len(kept)].copy()
                start, stop = (samples_for_frames(frame, FPS, SOUND_RATE) for frame in (first, end))
                ahead = writer.sound_ahead
                writer.write_audio(voice.sound(start + (ahead if first else 0), stop + ahead))
                writer.write_frames(numbered(frames, first))
                if block % LOOKED_EVERY_BLOCKS == 0:
                    hour.add(looked(process, folder, state, microphone.late(sound)))
                if (block + 1) * FRAMES_PER_BLOCK % (HOUR * FPS) < FRAMES_PER_BLOCK or block == blocks - 1:
                    told.append(hour)
                    hour = Hour()
                    print(
                        f"hour {len(told)}: {told[-1]}, {time.process_time() - begun:.0f} processor seconds", flush=True
                    )
    counts = microphone.source.counts
    times = {
        "sampled": (replayed_from or time.process_time()) - begun,
        "replayed": time.process_time() - (replayed_from or time.process_time()),
        "ran_dry": counts.ran_dry,
        "left_out": counts.left_out,
        "frames": float(writer.frames_written),
    }
    return told, seen, sound, times


def looked(process: psutil.Process, folder: Path, state: Path, late: float) -> Hour:
    files = [path.stat().st_size for path in folder.iterdir()]
    kept = sum(path.stat().st_size for path in state.iterdir()) if state.is_dir() else 0
    resident = process.memory_info().rss / 2**20
    return Hour(resident, sum(files) / 1024, len(files), kept / 1024, late, late)


def off_by(seen: Seen, sound: LiveSound) -> tuple[int, int, int]:
    """Of the last seconds that viewers were given: frames whose number is not that of their time; samples by which the
    sound is off; seconds that were looked at."""
    data = seen.video()
    with av.open(io.BytesIO(data)) as container:
        pictures = list(container.decode(video=0))
    with av.open(io.BytesIO(data)) as container:
        heard = list(container.decode(audio=0))
    wrong = 0
    for picture in pictures:
        assert picture.pts is not None and picture.time_base is not None
        frame = picture.pts * picture.time_base * FPS
        wrong += frame.denominator != 1 or number_of(picture.to_ndarray(format="rgb24")) != int(frame) % 2**BITS
    assert heard[0].pts is not None and heard[0].time_base is not None
    place = heard[0].pts * heard[0].time_base * SOUND_RATE
    assert place.denominator == 1
    decoded = np.concatenate([part.to_ndarray()[0] for part in heard])[: 5 * SOUND_RATE]
    given = sound.read(int(place), int(place) + len(decoded))[0].numpy()
    return wrong, shift_of(decoded, given), len(pictures)


def shift_of(decoded: np.ndarray, given: np.ndarray) -> int:
    """Samples by which one sound is later than another, at most 2,000."""
    size = 2 ** int(np.ceil(np.log2(2 * len(given))))
    together = np.fft.irfft(np.fft.rfft(decoded, size) * np.conj(np.fft.rfft(given, size)), size)
    shifts = np.concatenate([np.arange(2000), np.arange(-2000, 0)])
    return int(shifts[np.argmax(together[shifts])])


def report(told: list[Hour], found: tuple[int, int, int], times: dict[str, float], arguments: Any) -> str:
    late = told[1:] or told
    spread = {name: spread_of([getattr(hour, name) for hour in late]) for name in ("resident", "mean_window")}
    offset = max(hour.latest for hour in late) - min(hour.soonest for hour in late)
    wrong, shift, looked_at = found
    rows = [
        ("resident memory, hour 2 to the end", f"{spread['resident']:+.1%}", "2 %", abs(spread["resident"]) <= MOST),
        (
            "window on the disk, mean of an hour",
            f"{spread['mean_window']:+.1%}, {max(hour.files for hour in told)} files",
            "2 %",
            abs(spread["mean_window"]) <= MOST,
        ),
        (
            "time from recording to being heard: longest less shortest",
            f"{1000 * offset:.0f} ms",
            "40 ms",
            offset <= FRAME_SECONDS,
        ),
        (
            "its buffer ran dry; samples left out",
            f"{times['ran_dry']:.0f}; {times['left_out']:.0f}",
            "0",
            not times["ran_dry"],
        ),
        (f"frames that are not at their time, of the last {looked_at}", f"{wrong}", "0", not wrong),
        ("sound against the picture at the end", f"{shift} samples", "1 sample", abs(shift) <= 1),
    ]
    lines = [f"| {name} | {value} | {most} | {'yes' if met else '**no**'} |" for name, value, most, met in rows]
    hours = [
        f"| {number} | {h.resident:.0f} | {h.mean_window:.1f} ({h.window:.0f}) | {h.files} | {h.state:.0f} | "
        f"{1000 * h.soonest:.0f} to {1000 * h.latest:.0f} |"
        for number, h in enumerate(told, 1)
    ]
    return "\n".join(
        [
            "# A live session of a day\n",
            f"By `python -m benchmarks.live_day --hours {arguments.hours:g} --sampled {arguments.sampled:g} --ppm "
            f"{arguments.ppm:g}`; {times['frames']:,.0f} frames of 64x64 at 25 a second, {platform.system()}, "
            f"PyTorch {torch.__version__}. {times['sampled']:.0f} processor seconds for what was sampled, "
            f"{times['replayed']:.0f} for the rest.\n",
            (__doc__ or "").split("\n\n", 2)[2].strip() + "\n",
            "| | found | allowed | met |\n| --- | --- | --- | --- |",
            *lines,
            "\n| hour | resident MiB | window KiB, mean (most) | files | state KiB | ms until it is heard |",
            "| --- | --- | --- | --- | --- | --- |",
            *hours,
            "",
        ]
    )


def spread_of(values: list[float]) -> float:
    """The value that is furthest from the first one, relative to it."""
    apart = [value / values[0] - 1 for value in values]
    return max(apart, key=abs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=24)
    parser.add_argument("--sampled", type=float, default=60, help="minutes that are sampled")
    parser.add_argument("--ppm", type=float, default=200)
    parser.add_argument("--limit", type=float, default=600, help="minutes that it may take; what is done is reported")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    wanted = Wanted(arguments.hours, arguments.sampled, arguments.ppm, arguments.limit)
    told, seen, sound, times = run(wanted)
    text = report(told, off_by(seen, sound), times, arguments)
    arguments.output.write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
