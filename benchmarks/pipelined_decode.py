"""Sampling, decoding and encoding at the same time against one after the other, on the demo model.

`python -m benchmarks.pipelined_decode` runs both ways in turn: on one core, on two, and with a sampler that works
elsewhere for half a second a block, as on a device of its own. It prints the ratio of their times and of the processor
time they took: the median of the pairs, and that of the best runs, which other work on the machine disturbs least.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch

from benchmarks import ROOT
from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.checkpoint.bundle import find_bundle
from liveavatar_runtime.checkpoint.safetensors_io import read_weight_file
from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.media.video import AudioTrack, PictureTrack, VideoWriter
from liveavatar_runtime.online_video import OnlineVideo, Output, WriteOptions, write_online
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.prepare import Inputs, Prepared, prepare
from liveavatar_runtime.sampling.run import Evaluation, SamplingRequest
from liveavatar_runtime.spool.latent_stream import LatentStream
from liveavatar_runtime.vae import PlacedVAE, WanVAE, load_wan_vae
from liveavatar_runtime.vae.online_decoder import OnlineDecoder

CPU = torch.device("cpu")
RATE = 16_000


@dataclass(frozen=True)
class Bench:
    """The demo model with a picture, a prompt and a voice of noise: only the work counts."""

    executor: LocalExecutor
    vae: WanVAE
    prepared: Prepared
    audio: AvatarAudio
    elsewhere: float

    @classmethod
    def load(cls, side: int, clips: int, elsewhere: float) -> "Bench":
        bundle = find_bundle(ROOT / "demo" / "liveavatar-demo")
        assert bundle.vae
        model = load_transformer(bundle.model, dtype=torch.float32)
        vae = load_wan_vae(read_weight_file(bundle.vae)[0], dtype=torch.float32)
        config, generator = model.config, torch.Generator().manual_seed(0)
        plan = ClipPlan(num_clip=clips, infer_frames=24, fps=Fraction(25), width=side, height=side)
        seconds = int(plan.duration) + 1
        features = torch.randn(1, config.audio_layers, 50 * seconds, config.audio_dim, generator=generator)
        audio = AvatarAudio(features, torch.randn(1, RATE * seconds, generator=generator) / 10, RATE)
        text = torch.randn(20, config.text_dim, generator=generator)
        picture = torch.rand(side, side, 3, generator=generator)
        prepared = prepare(plan, config, Inputs(picture, text, audio), PlacedVAE(vae, CPU, torch.float32))
        return cls(LocalExecutor(model, CPU, torch.float32), vae, prepared, audio, elsewhere)

    def run(self, overlap: bool) -> tuple[float, float]:
        """Seconds on the clock and of the processor for sampling, decoding and writing one video."""
        plan, conditions = self.prepared.plan, self.prepared.conditions

        def wait_elsewhere(evaluation: Evaluation) -> None:
            time.sleep(self.elsewhere / plan.steps)

        def start_run(until, start, keep_rings):
            return self.executor.run(SamplingRequest(conditions, until, start, wait_elsewhere, keep_rings))

        with tempfile.TemporaryDirectory() as folder:
            stream = LatentStream(plan, self.prepared.priming, start_run)
            priming = stream.priming(self.vae.config.decoder_past_latents)
            decoder = OnlineDecoder(PlacedVAE(self.vae, CPU, torch.float32), priming, "hold")
            path = Path(folder) / "video.mp4"
            begun, worked = time.perf_counter(), time.process_time()
            with VideoWriter(path, PictureTrack(plan.width, plan.height, plan.fps), AudioTrack(RATE)) as writer:
                write_online(
                    stream, decoder, self.audio, Output(writer, OnlineVideo(path)), WriteOptions(overlap=overlap)
                )
            return time.perf_counter() - begun, time.process_time() - worked


def measure(cores: int, options: argparse.Namespace) -> str:
    """One line of results; runs in a process of its own with so many cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    torch.set_num_threads(1)
    bench = Bench.load(options.side, options.clips, options.elsewhere)
    bench.run(overlap=True)
    together, apart = [], []
    for pair in range(options.pairs):
        # Which one comes first alternates, so that a change of the machine's load favours neither.
        for overlap in (bool(pair % 2), not pair % 2):
            (together if overlap else apart).append(bench.run(overlap))
    clock, work = ([one[kind] / other[kind] for one, other in zip(together, apart, strict=True)] for kind in (0, 1))
    best = [min(run[kind] for run in together) / min(run[kind] for run in apart) for kind in (0, 1)]
    where = f"{cores} core(s)" + (f", {options.elsewhere:g} s a block elsewhere" if options.elsewhere else "")
    return (
        f"{where}, {options.side}x{options.side}, {options.clips * 24} frames, {options.pairs} pairs: overlapped takes "
        f"{statistics.median(clock):.3f} of the time (best runs {best[0]:.3f}; {min(run[0] for run in together):.2f} s "
        f"against {min(run[0] for run in apart):.2f} s) and {statistics.median(work):.3f} of the processor time (best "
        f"runs {best[1]:.3f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=128, help="width and height of the video")
    parser.add_argument("--clips", type=int, default=3, help="clips of 24 frames")
    parser.add_argument("--pairs", type=int, default=7, help="how often both ways are run")
    parser.add_argument("--cores", type=int, help="measure in this process, on so many cores")
    parser.add_argument("--elsewhere", type=float, default=0.0, help="seconds a block that the sampler works elsewhere")
    options = parser.parse_args()
    if options.cores:
        print(measure(options.cores, options), flush=True)
        return
    for case in (["--cores", "1"], ["--cores", "2"], ["--cores", "1", "--elsewhere", "0.5"]):
        subprocess.run(
            [sys.executable, "-m", "benchmarks.pipelined_decode", *sys.argv[1:], *case], cwd=ROOT, check=True
        )


if __name__ == "__main__":
    main()
