"""The demo from voice and picture to the file, in processor seconds for a second of video, part by part; the same work
in ComfyUI beside it; and what a clip costs after 1, 10, 100 and 1,000 of them."""

import json
import os
import re
import statistics
import tempfile
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch import Tensor

from benchmarks.quality import CPU, Demo
from demo.bundles import PEOPLE, SMALL, DemoBundle
from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.duration import samples_for_frames
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.media.images import to_uint8_frames
from liveavatar_runtime.media.video import AudioTrack, PictureTrack, VideoWriter
from liveavatar_runtime.online_video import OnlineVideo, Output, finish_file, write_online
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.prepare import Inputs, Prepared, prepare
from liveavatar_runtime.sampling.run import KeepRings, RunStart, SamplingRequest, SamplingRun
from liveavatar_runtime.spool.latent_stream import LatentStream
from liveavatar_runtime.vae.online_decoder import OnlineDecoder
from scripts.comfy_server import ComfyServer, make_base
from scripts.comfy_workflow import nodes_of, to_prompt

from .paired import Paired
from .setup import Row, Setup

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "demo"
PROMPT = "A friendly person talks to the camera"
MODEL_RATE, LIVE_RATE = Fraction(16), Fraction(25)
"""Frames a second: what the model was made for, and what live videos have."""
CLIPS = 3
"""That the demo's voice fills."""
AFTER = (1, 10, 100, 1000)
"""Clips after which the cost of one is measured, over as many around it as are there, up to ten."""


@dataclass(frozen=True)
class Given:
    """The demo's parts and inputs: picture [H, W, 3] of 0..1, voice [1, S] of so many samples a second."""

    bundle: DemoBundle
    demo: Demo
    model: CausalWanS2V
    picture: Tensor
    voice: Tensor
    rate: int

    @classmethod
    def load(cls, bundle: DemoBundle = SMALL) -> "Given":
        demo = Demo.load(bundle.folder)
        picture = torch.from_numpy(np.array(Image.open(bundle.picture).convert("RGB"))).float() / 255
        with wave.open(str(DEMO / "voice.wav")) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 2**15
            rate = file.getframerate()
        model = load_transformer(demo.bundle.model, dtype=torch.float32)
        return cls(bundle, demo, model, picture, torch.from_numpy(samples)[None], rate)

    def prepared(self, plan: ClipPlan, text: Tensor, audio: AvatarAudio) -> Prepared:
        place = self.demo.placed_vae
        return prepare(plan, self.model.config, Inputs(self.picture, text, audio), place)

    def plan(self, clips: int, seed: int, fps: Fraction = MODEL_RATE) -> ClipPlan:
        return ClipPlan(num_clip=clips, width=self.bundle.side, height=self.bundle.side, seed=seed, fps=fps)

    def audio(self) -> AvatarAudio:
        return self.demo.heard(self.voice, self.rate)


@dataclass
class Clock:
    """Processor seconds by the name of a part."""

    spent: dict[str, float]

    def timed(self, name: str, work: Callable[[], Any]) -> Any:
        start = time.process_time()
        found = work()
        self.spent[name] = self.spent.get(name, 0.0) + time.process_time() - start
        return found


def rows(setup: Setup) -> Iterator[Row]:
    given = Given.load()
    yield _alone(setup, given, "demo", MODEL_RATE)
    # Real time leaves the page and the mux room if all of this takes less than one of two cores.
    if PEOPLE.folder.is_dir():
        yield _alone(setup, Given.load(PEOPLE), "demo of 128x128, 25 frames a second", LIVE_RATE)
    else:
        yield Row.skipped("end to end", f"demo of 128x128: {PEOPLE.folder.name} is not there; demo.people trains it")
    if setup.comfyui is None:
        yield Row.skipped("end to end", "in ComfyUI: no folder was given with --comfyui")
    else:
        yield from _in_comfyui(setup, setup.comfyui, given)
    yield _lengths(given, 100 if setup.quick else max(AFTER))


def _alone(setup: Setup, given: Given, name: str, fps: Fraction) -> Row:
    runs = [_run(given, fps, seed) for seed in range(setup.few(5) + 1)][1:]
    parts = {part: statistics.median(run[part] for run in runs) for part in runs[0]}
    return Row("end to end", f"{name}, processor seconds a video second", "", {**parts, "sum": sum(parts.values())})


def _run(given: Given, fps: Fraction, seed: int) -> dict[str, float]:
    """Of a second of video; the parts follow each other here, in ComfyUI they overlap."""
    plan, clock = given.plan(CLIPS, seed, fps), Clock({})
    audio = clock.timed("voice", given.audio)
    text = clock.timed("text", lambda: given.demo.text.encode(PROMPT))
    ready = clock.timed("picture", lambda: given.prepared(plan, text, audio))
    place = given.demo.placed_vae
    decoder = clock.timed("priming", lambda: OnlineDecoder(place, ready.priming, "hold"))
    sampler = iter(LocalExecutor(given.model, CPU, torch.float32).run(SamplingRequest(ready.conditions, plan)))
    with tempfile.TemporaryDirectory() as folder:
        picture, sound = PictureTrack(plan.width, plan.height, plan.fps), AudioTrack(given.rate)
        with VideoWriter(Path(folder) / "video.mp4", picture, sound) as writer:
            for number in range(plan.num_blocks):
                block = clock.timed("sampling", lambda: next(sampler))
                pixels = clock.timed("decoding", lambda block=block: decoder.decode(block.latents))
                frames = 12 * number, 12 * number + pixels.shape[1]
                heard = audio.sound(*(samples_for_frames(frame, plan.fps, audio.sample_rate) for frame in frames))
                clock.timed("writing", lambda p=pixels, h=heard: _write(writer, p, h))
    return {name: seconds / float(plan.duration) for name, seconds in clock.spent.items()}


def _write(writer: VideoWriter, pixels: Tensor, sound: Tensor) -> None:
    writer.write_frames(to_uint8_frames(pixels))
    writer.write_audio(sound)


@dataclass(frozen=True)
class Alone:
    """The demo without ComfyUI, by the same three threads. Voice and text are there: ComfyUI keeps them between runs
    that differ in their seeds."""

    given: Given
    audio: AvatarAudio
    text: Tensor

    def run(self, seed: int) -> float:
        """Processor seconds."""
        given, plan, begun = self.given, self.given.plan(CLIPS, seed), time.process_time()
        ready = given.prepared(plan, self.text, self.audio)
        executor = LocalExecutor(given.model, CPU, torch.float32)

        def start(part: ClipPlan, first: RunStart, keep_rings: KeepRings) -> SamplingRun:
            return executor.run(SamplingRequest(ready.conditions, part, first, keep_rings=keep_rings))

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "video.mp4"
            decoder = OnlineDecoder(given.demo.placed_vae, ready.priming, "hold")
            picture, sound = PictureTrack(plan.width, plan.height, plan.fps), AudioTrack(given.rate)
            with VideoWriter(path, picture, sound) as writer:
                output = Output(writer, OnlineVideo(path))
                write_online(LatentStream(plan, ready.priming, start), decoder, self.audio, output)
                finish_file(output)
        return time.process_time() - begun


@contextmanager
def on_processors(count: int) -> Iterator[None]:
    """This process, and those that it starts meanwhile, on so many processors; all where the system cannot say so."""
    process, before = psutil.Process(), None
    if hasattr(process, "cpu_affinity"):
        before = process.cpu_affinity()
        process.cpu_affinity(before[-count:])
    try:
        yield
    finally:
        if before is not None:
            process.cpu_affinity(before)


def _in_comfyui(setup: Setup, comfyui: Path, given: Given) -> Iterator[Row]:
    """The short_clip template's chain with as many clips, by a real server, all nodes included, in turn with the same
    work in this process. On one processor threads do not slow each other down; on two that share a core they do."""
    alone = Alone(given, given.audio(), given.demo.text.encode(PROMPT))
    for processors in (1, 2):
        with on_processors(processors), tempfile.TemporaryDirectory() as folder:
            found = _pairs(setup, comfyui, Path(folder), alone)
        what = f"in ComfyUI, on {processors} processor{'s' * (processors > 1)}, processor seconds a video second"
        yield Row("end to end", what, "without ComfyUI", found.as_row())


def _pairs(setup: Setup, comfyui: Path, folder: Path, alone: Alone) -> Paired:
    """Processor seconds a video second, after a run of each that does not count."""
    # As many as here: threads that wait for each other spend processor time too.
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    with ComfyServer(comfyui, make_base(folder)) as server:
        workflow = json.loads((ROOT / "workflows" / "short_clip.json").read_text(encoding="utf-8"))
        prompt = to_prompt(workflow, server.client.object_info())
        (scheduler,), (sampler,) = (nodes_of(prompt, f"LiveAvatar_{n}") for n in ("ClipScheduler", "DiTSampler"))
        _choose(prompt, alone.given.bundle)
        process, pairs = psutil.Process(server.process_id), []
        for seed in range(setup.few(7) + 1):
            without = alone.run(seed)
            prompt[scheduler]["inputs"].update(num_clip=0, seed=seed)
            prompt[sampler]["inputs"].update(spool="until ComfyUI ends")
            before = process.cpu_times()
            result = server.client.run(prompt)
            result.raise_for_error()
            after = process.cpu_times()
            spent = after.user + after.system - before.user - before.system
            duration = _seconds_of(result.told(nodes_of(prompt, "LiveAvatar_OnlineVAEDecode")[0]))
            pairs.append((spent / duration, without / duration))
    inside, outside = zip(*pairs[1:], strict=True)
    return Paired(inside, outside)


def _choose(prompt: dict[str, Any], bundle: DemoBundle) -> None:
    """Model, picture and size of a demo in a template's graph."""
    for kind, inputs in (
        ("LiveAvatar_LoadAvatarModel", {"model": bundle.name}),
        ("LoadImage", {"image": f"liveavatar_{bundle.picture.name}"}),
        ("LiveAvatar_ClipScheduler", {"width": bundle.side, "height": bundle.side}),
    ):
        for node in nodes_of(prompt, kind):
            prompt[node]["inputs"].update(inputs)


def _seconds_of(told: str) -> float:
    """Of the video, from "avatar_00001_.mp4: 144 frames, 9 s"."""
    found = re.search(r"(\d+) frames, ([\d.]+) s", told)
    assert found is not None, told
    return float(found[2])


def _lengths(given: Given, clips: int) -> Row:
    plan = replace(given.plan(clips, 7), infer_frames=12)
    ready = given.prepared(plan, given.demo.text.encode(PROMPT), given.audio())
    seconds: list[float] = []
    last = time.process_time()
    for _ in LocalExecutor(given.model, CPU, torch.float32).run(SamplingRequest(ready.conditions, plan)):
        now = time.process_time()
        seconds.append(now - last)
        last = now
    found = {f"clip {n}": statistics.median(seconds[max(0, n - 11) : n]) for n in AFTER if n <= clips}
    return Row("length", "processor seconds of a clip of 12 frames, sampling", "", found)
