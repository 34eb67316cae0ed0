"""Finishes a long video by a real ComfyUI: `python -m benchmarks.finishing`.

Writes `benchmarks/results/finishing.md`. The demo's video is upscaled, cut out and doubled while it is made; the file
is read back, frame by frame, with its alpha and its sound, and the server's memory is looked at all the time. The
models are small: Compact with random weights, RIFE without motion, and a mask that tells the wall by its colour. What
is shown is what happens to frames, sound and memory, not what good models make of pictures.
"""

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
from av.codec.context import CodecContext
from comfy_server import ComfyServer, make_base
from media_files import decoded_sound
from prompt_builder import PromptBuilder
from video_facts import probe

from benchmarks import ROOT
from benchmarks.tiny_models import write_interpolation_model, write_upscale_model

MIB = 2**20
CLIP_FRAMES, SIDE, FPS = 24, 64, 16
DECODE = "LiveAvatar_OnlineVAEDecode"
LOOK_SECONDS = 0.5
FLAT = 0.02
"""Growth of the median resident memory from the second quarter to the last that counts as none."""


@dataclass
class Memory:
    """Resident bytes of a process over a run."""

    process: psutil.Process
    seen: list[int] = field(default_factory=list)

    @contextmanager
    def watched(self) -> Iterator[None]:
        done = threading.Event()

        def look() -> None:
            while not done.wait(LOOK_SECONDS):
                self.seen.append(self.process.memory_info().rss)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def of_part(self, first: float, last: float) -> float:
        """The median of a part of the run, MiB."""
        part = self.seen[int(first * len(self.seen)) : max(1, int(last * len(self.seen)))]
        return float(np.median(part)) / MIB


def prompt_for(server: ComfyServer, clips: int, steps: bool) -> PromptBuilder:
    """The demo's video of so many clips, with or without the finishing."""
    for folder, write in (("upscale_models", write_upscale_model), ("frame_interpolation", write_interpolation_model)):
        place = server.base / "models" / folder
        place.mkdir(parents=True, exist_ok=True)
        write(place / "tiny.safetensors")
    workflow = json.loads((ROOT / "workflows" / "short_clip.json").read_text(encoding="utf-8"))
    prompt = PromptBuilder(workflow, server.client.object_info())
    prompt.set("LiveAvatar_ClipScheduler", num_clip=clips, infer_frames=CLIP_FRAMES, width=SIDE, height=SIDE, seed=1)
    prompt.add("silence", "EmptyAudio", duration=clips * CLIP_FRAMES / FPS + 1.0, sample_rate=16000, channels=1)
    prompt.set("LiveAvatar_AudioEncode", audio=["silence", 0])
    prompt.set(DECODE, codec="ffv1", filename_prefix=f"finishing/{'finished' if steps else 'plain'}")
    if steps:
        prompt.add("upscaler", "UpscaleModelLoader", model_name="tiny.safetensors")
        prompt.add("between", "FrameInterpolationModelLoader", model_name="tiny.safetensors")
        prompt.add("mask", "OddBackground")
        behind = {"background_model": ["mask", 0], "behind": "transparent", "colour": "#00ff00"}
        prompt.add("alpha", "LiveAvatar_FinishBackground", **behind)
        larger = {"upscale_model": ["upscaler", 0], "width": 0, "height": 0, "finishing": ["alpha", 0]}
        prompt.add("upscale", "LiveAvatar_FinishUpscale", **larger)
        more = {"interp_model": ["between", 0], "factor": 2, "finishing": ["upscale", 0]}
        prompt.add("double", "LiveAvatar_FinishFrameRate", **more)
        prompt.set(DECODE, finishing=["double", 0])
    return prompt


def frames_of(path: Path) -> Iterator[np.ndarray]:
    """RGBA, one after the other."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        context: Any = CodecContext.create("ffv1", "r")
        context.extradata = stream.codec_context.extradata
        context.width, context.height = stream.width, stream.height
        for packet in file.demux(stream):
            for frame in context.decode(packet) if packet.size else []:
                yield frame.to_ndarray(format="rgba")


@dataclass(frozen=True)
class Made:
    """A video that was made, its report, and the server's memory meanwhile."""

    path: Path
    report: dict[str, Any]
    memory: Memory


def make(server: ComfyServer, clips: int, steps: bool) -> Made:
    prompt = prompt_for(server, clips, steps)
    memory = Memory(psutil.Process(server.process_id))
    with memory.watched():
        result = server.client.run(prompt.nodes, timeout=7200)
    result.raise_for_error()
    entry = result.outputs[prompt.id(DECODE)]["images"][0]
    path = server.output / entry["subfolder"] / entry["filename"]
    return Made(path, json.loads(path.with_suffix(".json").read_text(encoding="utf-8")), memory)


@dataclass(frozen=True)
class Looked:
    """What is in the finished file: frames, those that are as they must be, samples of sound."""

    frames: int
    doubled: int
    in_front: float
    behind: float
    samples: int
    sample_rate: int


def look(path: Path) -> Looked:
    """doubled: frames between two that are their mean, as the interpolator's weights make it. in_front, behind: mean
    alpha of the middle of the face and of the upper corner."""
    heard, rate, _ = decoded_sound(path, exact=False)
    doubled, in_front, behind, last, between = 0, [], [], None, None
    for number, frame in enumerate(frames_of(path)):
        side = frame.shape[0] // 16
        in_front.append(frame[7 * side : 10 * side, 7 * side : 9 * side, 3].mean() / 255)
        behind.append(frame[:side, :side, 3].mean() / 255)
        if number % 2:
            between = frame
            continue
        if last is not None and between is not None:
            mean = (last[..., :3].astype(float) + frame[..., :3]) / 2
            doubled += bool(np.abs(between[..., :3] - mean).max() <= 1)
        last = frame
    frames = probe(path).frames
    return Looked(frames, doubled, float(np.mean(in_front)), float(np.mean(behind)), heard.shape[1], rate)


def report(clips: int, made: dict[str, Made], looked: Looked, seconds: dict[str, float]) -> str:
    frames = clips * CLIP_FRAMES
    finished, plain = made["finished"], made["plain"]
    growth = finished.memory.of_part(0.75, 1.0) / finished.memory.of_part(0.25, 0.5) - 1
    samples = Fraction(frames * looked.sample_rate, FPS)
    right = (looked.frames, looked.doubled, looked.samples) == (2 * frames, frames - 1, samples)
    worked = finished.report["stages"]["worked_seconds"]
    rows = [
        ("clips, frames of the plan", f"{clips}, {frames}"),
        ("frames in the file", f"{looked.frames} of {2 * frames}, 128x128, {2 * FPS} a second"),
        ("frames between two that are what the model makes of them", f"{looked.doubled} of {frames - 1}"),
        ("samples of sound", f"{looked.samples} of {samples} at {looked.sample_rate} Hz"),
        ("alpha of the face, of the wall", f"{looked.in_front:.3f}, {looked.behind:.3f}"),
        (
            "resident memory: second quarter of the run, last quarter",
            f"{finished.memory.of_part(0.25, 0.5):.0f} MiB, {finished.memory.of_part(0.75, 1.0):.0f} MiB "
            f"({growth:+.2%})",
        ),
        ("the same without finishing, last quarter", f"{plain.memory.of_part(0.75, 1.0):.0f} MiB"),
        ("time with and without finishing", f"{seconds['finished']:.0f} s, {seconds['plain']:.0f} s"),
        ("at work", ", ".join(f"{stage} {value:.0f} s" for stage, value in worked.items())),
        ("what the report says", finished.report["bottleneck"]),
        ("verdict", "exact and flat" if right and growth < FLAT else "NOT as it must be"),
    ]
    lines = [
        "# Finishing: a long video upscaled, cut out and doubled",
        "",
        f"By `python -m benchmarks.finishing`: {clips} clips of the demo ({SIDE}x{SIDE}, {CLIP_FRAMES} frames each)",
        "through a real ComfyUI (`--cpu`), first without, then with **Finish Background** (transparent), **Finish",
        "Upscale** (x2) and **Finish Frame Rate** (x2), as FFV1 with alpha; the second run replays the blocks of the",
        "first. Every frame of the file was read back. The models are of real architectures with random or made",
        "weights, so nothing here is about beauty: Compact, RIFE without motion (its frames are the mean of two), and",
        "in place of BiRefNet a mask that tells the wall by its colour, in ComfyUI's class for such models.",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in rows),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "finishing.md")
    options = parser.parse_args()
    comfyui = Path(os.environ.get("COMFYUI_PATH", ROOT / ".comfyui" / "ComfyUI"))
    odd = ROOT / "tests" / "server" / "odd_nodes"
    made: dict[str, Made] = {}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, ComfyServer(comfyui, make_base(Path(folder), [odd])) as server:
        for name in ("plain", "finished"):
            begun = time.perf_counter()
            made[name] = make(server, options.clips, steps=name == "finished")
            seconds[name] = time.perf_counter() - begun
        text = report(options.clips, made, look(made["finished"].path), seconds)
    options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
