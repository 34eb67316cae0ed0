"""`python -m benchmarks.branches`: what it costs to make a clip in the middle of a long video again.

A video of 1,000 clips of a small random model, then clip 500 alone again, all clips from 500 on again, a prompt that
changes at clip 500, and back to the first one; blocks that were sampled are counted, and latents compared with those of
a run in one go. Writes results/branches.md.
"""

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks import ROOT

sys.path.insert(0, str(ROOT / "tests" / "runtime"))

from spooled_video import PLAN, STATE_BYTES, Sampling  # noqa: E402 - found by the line above
from tiny_avatar import scripted_conditions  # noqa: E402

from liveavatar_runtime.sampling.plan import ClipPlan  # noqa: E402
from liveavatar_runtime.sampling.script import Change, Script  # noqa: E402
from liveavatar_runtime.sampling.takes import parse_takes, resolved  # noqa: E402
from liveavatar_runtime.spool.chain import chain_of  # noqa: E402
from liveavatar_runtime.spool.latent_stream import LatentStream, Storage  # noqa: E402
from liveavatar_runtime.spool.spliced_stream import SplicedStream  # noqa: E402
from liveavatar_runtime.spool.spool import Spool  # noqa: E402
from liveavatar_runtime.spool.states import StateSettings  # noqa: E402

CLIP = 500
RESULT = ROOT / "benchmarks" / "results" / "branches.md"


@dataclass(frozen=True)
class Made:
    """A video that was made: blocks that were sampled, seconds until its first and its last block, bytes of the folder
    after it, and a hash of its latents by block."""

    what: str
    sampled: int
    first: float
    whole: float
    bytes: int
    blocks: tuple[int, ...]


def make(what: str, folder: Path, plan: ClipPlan) -> Made:
    found = resolved(plan)
    sampling = Sampling()
    sampling.conditions = conditions = scripted_conditions(plan=found.plan)
    spool = Spool(folder, chain=chain_of(found.plan, conditions))
    history, states = conditions.motion[:, -7:], StateSettings(STATE_BYTES)
    begun = time.perf_counter()
    stream = SplicedStream(found.plan, history, sampling, Storage(spool, states))
    for clip, part in found.alone.items():
        taken = Storage(spool.with_chain(chain_of(part, conditions)), states)
        stream.takes[clip] = LatentStream(part, history, sampling, taken)
    blocks: list[int] = []
    first = 0.0
    for block in stream:
        first = first or time.perf_counter() - begun
        blocks.append(hash(block.latents.numpy().tobytes()))
    size = sum(path.stat().st_size for path in folder.iterdir())
    return Made(what, len(sampling.blocks), first, time.perf_counter() - begun, size, tuple(blocks))


def videos(clips: int, clip: int) -> Iterator[tuple[str, ClipPlan]]:
    plan = replace(PLAN, num_clip=clips, infer_frames=12)
    yield "the video", plan
    yield f"clip {clip} alone again", replace(plan, takes=parse_takes(f"{clip}: 1"))
    yield f"from clip {clip} on again", replace(plan, takes=parse_takes(f"{clip}-: 1"))
    yield f"another prompt from clip {clip} on", replace(plan, script=Script((Change(block=clip - 1, text=True),)))
    yield "the first one again", plan


def measure(clips: int, clip: int) -> list[tuple[Made, bool]]:
    """Each video, and whether it is what a run in one go gives, bit for bit (of a splice: but for its clip)."""
    results: list[tuple[Made, bool]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (what, plan) in enumerate(videos(clips, clip)):
            made = make(what, Path(folder) / "spool", plan)
            if plan.takes and plan.takes[0].alone:
                fresh = [*results[0][0].blocks]
                fresh[clip - 1] = made.blocks[clip - 1]
                same = made.blocks == tuple(fresh) and made.blocks != results[0][0].blocks
            else:
                same = made.blocks == make("fresh", Path(folder) / f"fresh-{number}", plan).blocks
            results.append((made, same))
    return results


def table(results: list[tuple[Made, bool]]) -> str:
    lines = [
        "| made | blocks sampled | first block | whole | folder | equal to one run |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for made, same in results:
        verdict = "bit for bit" if same else "**no**"
        size = f"{made.bytes / 2**20:.0f} MiB"
        lines.append(f"| {made.what} | {made.sampled} | {made.first:.2f} s | {made.whole:.1f} s | {size} | {verdict} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    clip = min(CLIP, options.clips // 2)
    found = table(measure(options.clips, clip))
    text = f"""# A clip in the middle again

By `python -m benchmarks.branches`: {options.clips} clips of one block, a random model of five layers at 64x64, 2 steps,
on {platform.system()}, PyTorch {torch.__version__}. What counts are the blocks; seconds are those of this small model
on a busy machine. A clip alone is compared with the first video, which it must equal but for that clip.

{found}
"""
    options.output.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
