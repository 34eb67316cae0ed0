"""A very long video of the demo model in one stream: memory, time per clip, frames and sound, drift.

    python -m benchmarks.soak [--clips 1000] [--infer-frames 48] [--sink-policy adaptive]

Samples, decodes and writes the file as ComfyUI does, with the spool on the disk, and writes
benchmarks/results/soak.md and soak.png. After every clip it samples and decodes the video's first block anew: the
time of a clip is also given in units of that, because the speed of a machine that does other things changes.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import psutil
import torch
from torch import Tensor
from video_facts import probe

from benchmarks import ROOT, measures, quality
from demo.training.portraits import Pose, draw
from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.duration import duration
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.media.images import to_uint8_frames
from liveavatar_runtime.media.video import AudioTrack, PictureTrack, VideoWriter
from liveavatar_runtime.online_video import Hooks, OnlineVideo, Output, WriteOptions, write_online
from liveavatar_runtime.planning.memory import ring_bytes
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.prepare import Inputs, Prepared, prepare
from liveavatar_runtime.sampling.run import SamplingRequest
from liveavatar_runtime.spool.latent_stream import LatentStream, Storage
from liveavatar_runtime.spool.spool import Spool
from liveavatar_runtime.spool.states import StateSettings
from liveavatar_runtime.vae.online_decoder import OnlineDecoder

CPU = torch.device("cpu")
RESULTS = ROOT / "benchmarks" / "results"
WARM_CLIPS, WINDOW = 20, 50
MAX_GROWTH, MAX_SLOWDOWN = 0.02, 0.05


@dataclass
class Record:
    """After each clip: resident bytes, processor seconds that it took and that the first block then took anew; of each
    clip's last frame how near it is to the picture (dB, where the person does not move) and its mean brightness."""

    resident: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    first_block: list[float] = field(default_factory=list)
    identity: list[float] = field(default_factory=list)
    brightness: list[float] = field(default_factory=list)

    @property
    def relative(self) -> list[float]:
        """Time of each clip in units of the first block's: what is left when the machine's own speed is taken out."""
        return [clip / block for clip, block in zip(self.seconds, self.first_block, strict=True)]


class MeasuringDecoder(OnlineDecoder):
    """Notes the last frame of every clip on its way to the file."""

    def observe(self, what: quality.Scene, blocks_per_clip: int, record: Record) -> "MeasuringDecoder":
        self._record, self._blocks_per_clip, self._decoded = record, blocks_per_clip, 0
        self._still = measures.still_parts(what.person, wall_too=what.word is None)
        self._picture = draw(what.person, Pose())[self._still]
        return self

    def decode(self, latents: Tensor) -> Tensor:
        pixels = super().decode(latents)
        self._decoded += 1
        if self._decoded % self._blocks_per_clip == 0:
            frame = to_uint8_frames(pixels[:, -1:])[0]
            self._record.identity.append(measures.psnr(np.asarray(frame)[self._still], self._picture))
            self._record.brightness.append(float(np.asarray(frame).mean()))
        return pixels


def prepared(demo: quality.Demo, what: quality.Scene, plan: ClipPlan) -> tuple[Prepared, AvatarAudio]:
    audio = demo.heard(what.voice)
    picture = torch.from_numpy(draw(what.person, Pose(), 512)).float() / 255
    config = load_transformer(demo.bundle.model).config
    return prepare(plan, config, Inputs(picture, demo.text.encode(what.prompt), audio), demo.placed_vae), audio


def make_video(
    demo: quality.Demo, what: quality.Scene, ready: Prepared, audio: AvatarAudio, path: Path, spool: Path
) -> Record:
    """Sample, decode and write all of it; one thread, so that the time of a clip is its own."""
    plan, record = ready.plan, Record()
    model = load_transformer(demo.bundle.model, dtype=torch.float32)
    executor = LocalExecutor(model, CPU, torch.float32)
    stream = LatentStream(
        plan,
        ready.priming,
        lambda part, start, keep: executor.run(SamplingRequest(ready.conditions, part, start, keep_rings=keep)),
        Storage(Spool(spool), StateSettings(ring_bytes(Workload(model.config, plan, torch.float32)))),
    )
    decoder = MeasuringDecoder(demo.placed_vae, ready.priming, "hold")
    decoder.observe(what, plan.blocks_per_clip, record)
    process, last = psutil.Process(), [time.process_time()]

    def first_block() -> None:
        block = next(executor.run(SamplingRequest(ready.conditions, plan)))
        OnlineDecoder(demo.placed_vae, ready.priming, "hold").decode(block.latents)

    def note(done: int, total: int) -> None:
        if done % plan.infer_frames == 0:
            record.resident.append(process.memory_info().rss)
            record.seconds.append(time.process_time() - last[0])
            last[0] = time.process_time()
            first_block()
            record.first_block.append(time.process_time() - last[0])
            last[0] = time.process_time()
            if len(record.seconds) % WINDOW == 0:
                print(f"clip {len(record.seconds)}: {record.resident[-1] / 2**20:.0f} MiB", flush=True)

    with VideoWriter(path, PictureTrack(plan.width, plan.height, plan.fps), AudioTrack(audio.sample_rate)) as writer:
        write_online(
            stream, decoder, audio, Output(writer, OnlineVideo(path)), WriteOptions(hooks=Hooks(note), overlap=False)
        )
    return record


def judge(plan: ClipPlan, record: Record, path: Path) -> str:
    """The figures that the soak must show, as a table."""
    warm, window = min(WARM_CLIPS, plan.num_clip // 4), min(WINDOW, plan.num_clip // 4)
    growth = record.resident[-1] / record.resident[warm - 1] - 1
    first = statistics.median(record.seconds[warm : warm + window])
    relative = [statistics.median(part) for part in (record.relative[warm : warm + window], record.relative[-window:])]
    facts = probe(path)
    sound = abs((facts.audio_duration or 0) - duration(plan.num_clip, plan.infer_frames, plan.fps))
    likeness = [statistics.mean(part) for part in (record.identity[:window], record.identity[-window:])]
    rows = (
        (f"memory after clip {plan.num_clip} against clip {warm}", f"{growth:+.2%}", f"<= {MAX_GROWTH:.0%}"),
        (
            f"time of a clip, last {window} against first {window}",
            f"{relative[1] / relative[0] - 1:+.1%}",
            f"<= {MAX_SLOWDOWN:.0%}",
        ),
        ("frames in the file", f"{facts.frames}", f"{plan.frames}"),
        ("sound against picture", f"{float(sound):.4f} s", f"<= {float(1 / plan.fps):.3f} s"),
        (f"likeness, first and last {window} clips", f"{likeness[0]:.2f} and {likeness[1]:.2f} dB", "-"),
    )
    lines = [
        f"{plan.num_clip} clips of {plan.infer_frames} frames in one stream, sink_policy {plan.sink_policy}: sampled,",
        f"kept on the disk, decoded and written with sound, one thread, {1000 * first:.0f} ms of CPU time a clip.",
        "Times of clips are compared in units of the first block's time, measured anew after each clip.",
        "",
        "| figure | measured | target |",
        "| --- | --- | --- |",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def plot(record: Record, path: Path) -> None:
    """Memory, time, likeness and brightness over the clips, one below the other."""
    curves = (
        ("resident memory, MiB", [value / 2**20 for value in record.resident]),
        ("processor time of a clip, ms (median of 21)", smooth([1000 * value for value in record.seconds])),
        ("the same, in units of the first block's, made anew after each clip", smooth(record.relative)),
        ("likeness of the still parts to the picture, dB (median of 21)", smooth(record.identity)),
        ("mean brightness, 0..255 (median of 21)", smooth(record.brightness)),
    )
    cv2.imwrite(str(path), np.vstack([panel(title, values) for title, values in curves]))


def smooth(values: list[float], window: int = 21) -> list[float]:
    padded = np.pad(values, window // 2, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, window), axis=1).tolist()


def panel(title: str, values: list[float], width: int = 960, height: int = 240) -> np.ndarray:
    """A curve with its title, its range and the number of clips: uint8 [height, width, 3]."""
    left, right, top, bottom = 70, width - 20, 40, height - 30
    image = np.full((height, width, 3), 255, np.uint8)
    middle = (min(values) + max(values)) / 2
    # Half a range of 5 % at least: noise must not look like drift.
    half = max((max(values) - min(values)) / 2 * 1.1, abs(middle) * 0.05, 1e-9)
    cv2.rectangle(image, (left, top), (right, bottom), (200, 200, 200), 1)
    x = np.linspace(left, right, len(values))
    y = bottom - (np.asarray(values) - (middle - half)) / (2 * half) * (bottom - top)
    cv2.polylines(image, [np.stack([x, y], axis=1).round().astype(np.int32)], False, (160, 60, 20), 1, cv2.LINE_AA)
    labels = ((title, left, 25), (f"{middle + half:.1f}", 5, top + 10), (f"{middle - half:.1f}", 5, bottom))
    for text, column, line in (
        *labels,
        ("clip 0", left, height - 10),
        (f"clip {len(values) - 1}", right - 70, height - 10),
    ):
        cv2.putText(image, text, (column, line), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--infer-frames", type=int, default=48)
    parser.add_argument("--sink-policy", default="adaptive")
    parser.add_argument("--name", default="soak", help="name of the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    demo = quality.Demo.load(ROOT / "demo" / "liveavatar-demo")
    plan = ClipPlan(
        num_clip=options.clips,
        infer_frames=options.infer_frames,
        fps=Fraction(25),
        width=64,
        height=64,
        seed=7,
        sink_policy=options.sink_policy,
    )
    what = quality.scene(0, float(plan.duration))
    ready, audio = prepared(demo, what, plan)
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "soak.mp4"
        record = make_video(demo, what, ready, audio, path, Path(folder) / "spool")
        result = judge(ready.plan, record, path)
    (RESULTS / f"{options.name}.md").write_text(result)
    plot(record, RESULTS / f"{options.name}.png")
    print(result)


if __name__ == "__main__":
    main()
