"""How far a video departs after a break from what it would have been, on the demo model.

    python -m benchmarks.continuing

The same video is sampled without a break, and with breaks after which it goes on from an exact state, from one in fp8,
and after a warm-up. Prints, and writes to benchmarks/results/continuing.md, the root mean square difference of the
latents in per mille of their standard deviation: in the first clip after the break, and in the third one.
"""

import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import ROOT, quality
from benchmarks.soak import CPU, RESULTS, prepared
from liveavatar_runtime.checkpoint.transformer import load_transformer
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.prepare import Prepared
from liveavatar_runtime.sampling.run import Evaluation, SamplingRequest
from liveavatar_runtime.spool.latent_stream import LatentStream, Storage
from liveavatar_runtime.spool.spool import Spool
from liveavatar_runtime.spool.states import StateSettings

PLAN = ClipPlan(num_clip=12, infer_frames=48, fps=Fraction(25), width=64, height=64, seed=7)
BREAKS = (20, 21, 22, 23, 28, 32)
"""Blocks before which sampling is interrupted: at the beginning of a clip, and inside of it."""
# Only interruptions keep a state then, as with the 14B model.
LARGE, ROOMY = 2**27, 2**28
WAYS = {
    "an exact state": StateSettings(LARGE, ROOMY),
    "a state in fp8": StateSettings(LARGE, ROOMY, fp8=True),
    "a warm-up": StateSettings(1, 0),
}


class Break(Exception):
    """The user presses the button."""


@dataclass(frozen=True)
class Video:
    """The demo model with one scene."""

    executor: LocalExecutor
    ready: Prepared

    def sample(self, folder: Path, states: StateSettings, stop_before: int | None = None) -> Tensor | None:
        """Latents [16, frames, h, w] of all blocks; None when it was stopped."""

        def after_step(evaluation: Evaluation) -> None:
            if evaluation.block == stop_before:
                raise Break

        stream = LatentStream(
            self.ready.plan,
            self.ready.priming,
            lambda part, start, keep: self.executor.run(
                SamplingRequest(self.ready.conditions, part, start, after_step, keep)
            ),
            Storage(Spool(folder), states),
        )
        try:
            return torch.cat([block.latents for block in stream], dim=1)
        except Break:
            return None


def departures(video: Video, whole: Tensor, states: StateSettings) -> tuple[float, float]:
    """In the first clip after a break, and in the third one: mean over the breaks, per mille."""
    per_clip = PLAN.blocks_per_clip
    found = []
    for block in BREAKS:
        with tempfile.TemporaryDirectory() as folder:
            assert video.sample(Path(folder), states, stop_before=block) is None
            latents = video.sample(Path(folder), states)
        before = 3 * (block - block % per_clip)
        assert latents is not None and torch.equal(latents[:, :before], whole[:, :before])
        found.append([departure(latents, whole, block + skipped * per_clip) for skipped in (0, 2)])
    first, third = torch.tensor(found).mean(dim=0).tolist()
    return first, third


def departure(latents: Tensor, whole: Tensor, block: int) -> float:
    part = slice(3 * block, 3 * (block + PLAN.blocks_per_clip))
    difference = (latents[:, part] - whole[:, part]).square().mean().sqrt()
    return 1000 * float(difference / whole[:, part].std())


def main() -> None:
    torch.set_num_threads(1)
    demo = quality.Demo.load(ROOT / "demo" / "liveavatar-demo")
    what = quality.scene(0, float(PLAN.duration))
    ready, _ = prepared(demo, what, PLAN)
    video = Video(LocalExecutor(load_transformer(demo.bundle.model, dtype=torch.float32), CPU, torch.float32), ready)
    with tempfile.TemporaryDirectory() as folder:
        whole = video.sample(Path(folder), StateSettings())
    assert whole is not None
    coarse = load_transformer(demo.bundle.model, dtype=torch.bfloat16)
    with tempfile.TemporaryDirectory() as folder:
        rounded = Video(LocalExecutor(coarse, CPU, torch.bfloat16), ready).sample(Path(folder), StateSettings())
    assert rounded is not None
    lines = [
        "Difference of the demo model's latents (float32) to a run without a break, in per mille of their standard",
        f"deviation; mean of {len(BREAKS)} breaks. By `python -m benchmarks.continuing`.",
        "",
        "| after the break from | first clip | third clip |",
        "| --- | --- | --- |",
    ]
    for name, states in WAYS.items():
        first, third = departures(video, whole, states)
        lines.append(f"| {name} | {first:.3f} | {third:.3f} |")
    first, third = (departure(rounded, whole, BREAKS[0] + skipped * PLAN.blocks_per_clip) for skipped in (0, 2))
    lines.append(f"| (no break, all in bfloat16) | {first:.3f} | {third:.3f} |")
    text = "\n".join(lines) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "continuing.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
