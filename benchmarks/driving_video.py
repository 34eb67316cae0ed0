"""What a driving video of a minute and one of an hour take: memory, pictures read ahead, time for a block.

    python -m benchmarks.driving_video

Writes benchmarks/results/driving_video.md. Makes files of a moving skeleton, and encodes the poses of a video that is
as long with a small random VAE, 64x64 at 16 frames a second, each in a process of its own; nothing is sampled. Three
minutes on a free processor.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import psutil
import torch

from benchmarks import ROOT
from liveavatar_runtime.duration import FRAMES_PER_BLOCK, driving_time
from liveavatar_runtime.media.driving_video import FilePictures, VideoPart
from liveavatar_runtime.sampling.driven_pose import DrivenPose, DrivingVideo
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.vae import PlacedVAE, VaeConfig, WanVAE

RESULT = ROOT / "benchmarks" / "results" / "driving_video.md"
WIDTH, HEIGHT, RATE = 320, 240, 25
MINUTES = (1, 60)
SETTLED = 100
"""Blocks after which what is loaded once is there."""
MIB = 2**20


def skeleton(seconds: float) -> np.ndarray:
    """uint8 [H, W, 3]: a head, a trunk and two arms that swing, in colours on black."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    swing = np.sin(seconds * 2.1), np.sin(seconds * 1.3 + 1)
    neck, hip = (160 + int(8 * swing[0]), 90), (160, 190)
    cv2.line(picture, neck, hip, (0, 0, 255), 6)
    cv2.circle(picture, (neck[0] + int(6 * swing[1]), 60), 22, (255, 0, 170), 4)
    for side, swung in zip((-1, 1), swing, strict=True):
        elbow = (neck[0] + side * 45, 130 - int(25 * swung))
        hand = (elbow[0] + side * 20, elbow[1] + int(40 * swung))
        cv2.line(picture, neck, elbow, (255, 85, 0), 6)
        cv2.line(picture, elbow, hand, (255, 255, 0), 6)
    return picture


def write(path: Path, minutes: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "23"}
        for number in range(60 * RATE * minutes):
            picture = skeleton(number / RATE)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


class Watched(FilePictures):
    """How far the file is read ahead of the picture that is wanted."""

    ahead = 0

    def picture_at(self, seconds: Fraction) -> np.ndarray:
        picture = super().picture_at(seconds)
        self.ahead = max(self.ahead, self.decoded - 1 - int(seconds * RATE))
        return picture


def measured(path: Path, minutes: int) -> dict[str, float]:
    """Of all blocks in order, then of the last clip by itself."""
    plan = ClipPlan(num_clip=20 * minutes, width=64, height=64, keep_aspect=False)
    vae = WanVAE(VaeConfig(dim=8, num_res_blocks=1)).eval().requires_grad_(False)
    place, process = PlacedVAE(vae, torch.device("cpu"), torch.float32), psutil.Process()
    started = time.perf_counter()
    pictures = Watched(VideoPart(path))
    opened = time.perf_counter() - started
    pictures.decoded = 0
    pose = DrivenPose(DrivingVideo(pictures, False, ""), plan, place)
    memory = []
    started = time.perf_counter()
    for block in range(plan.num_blocks):
        pose.latents(block)
        memory.append(process.memory_info().rss)
    each = (time.perf_counter() - started) / plan.num_blocks
    ahead, last = pictures.ahead, plan.num_blocks - plan.blocks_per_clip
    settled = memory[min(SETTLED, len(memory) // 2)]
    pose.close()
    started = time.perf_counter()
    pose.latents(last)
    found = time.perf_counter() - started
    return {
        "frames": plan.num_blocks * FRAMES_PER_BLOCK,
        "settled": settled / MIB,
        "peak": max(memory) / MIB,
        "ahead": ahead,
        "opened": opened,
        "each": 1000 * each,
        "found": 1000 * found,
        "file": path.stat().st_size / MIB,
        "end": float(driving_time(plan.frames, plan.fps, pictures.length, loops=False)),
    }


def report(rows: dict[int, dict[str, float]]) -> str:
    table = "\n".join(
        f"| {minutes} min | {row['file']:.0f} MiB | {row['frames']:,.0f} | {row['settled']:.0f} MiB | "
        f"{row['peak']:.0f} MiB | {row['ahead']:.0f} | {row['opened']:.2f} s | {row['each']:.0f} ms | "
        f"{row['found']:.0f} ms |"
        for minutes, row in rows.items()
    )
    return f"""# Driving videos of a minute and of an hour

Made by `python -m benchmarks.driving_video` with PyTorch {torch.__version__} and {torch.get_num_threads()} threads.

A moving skeleton, {WIDTH}x{HEIGHT} at {RATE} frames a second, H.264, drives a video of the same length at 16. A small
random VAE encodes the poses at 64x64; nothing is sampled. Each row is a process of its own.

| Driving video | File | Frames driven | Resident memory after {SETTLED} blocks (half of a short video) | Its peak | \
Pictures read ahead | To open | A block | The last clip's first block alone |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
{table}

**To open**: to read the times of all pictures, which decodes none. **The last clip's first block alone**: how soon a
run that goes on there has its pose; the file is searched, not read from the beginning.
Times are by the clock on the wall, and longer on a machine that is busy, as it was when these were recorded.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, nargs="+", default=MINUTES)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measured(options.measure, options.minutes[0])))
        return
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for minutes in options.minutes:
            path = Path(folder) / f"{minutes}.mp4"
            write(path, minutes)
            command = [sys.executable, "-m", "benchmarks.driving_video", "--measure", str(path), "--minutes"]
            made = subprocess.run([*command, str(minutes)], check=True, stdout=subprocess.PIPE, cwd=ROOT)
            rows[minutes] = json.loads(made.stdout)
            print(minutes, rows[minutes], flush=True)
    RESULT.write_text(report(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
