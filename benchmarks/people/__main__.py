"""Measures the demo of 128x128 in its pictures: `python -m benchmarks.people --bundle DIR`.

People, voices, words and wordings are none that it was trained on; videos come from the real runtime. What a video
shows is told by which drawing of the same person, at the same moment, it is nearest to. Writes
benchmarks/results/people.md.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import ROOT
from benchmarks.quality import Demo

from .guided import driven, two_people
from .likeness import identity, length
from .prompts import follows, prompts
from .voice import lip_sync, vowels

RESULT = ROOT / "benchmarks" / "results" / "people.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--people", type=int, default=12)
    parser.add_argument("--prompts", type=int, default=20, help="of each kind")
    parser.add_argument("--clips", type=int, default=300, help="length of the long stream")
    parser.add_argument("--only", default="", help="parts to measure, nothing is written then: lip_sync,driven")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    demo, started = Demo.load(arguments.bundle), time.monotonic()
    lines = ["| figure | measured | target | met |", "| --- | --- | --- | --- |"]
    parts: dict[str, Callable[[], list[str]]] = {
        "lip_sync": lambda: lip_sync(demo),
        "identity": lambda: identity(demo, arguments.people),
        "prompts": lambda: prompts(demo, arguments.prompts),
        "follows": lambda: follows(demo, arguments.prompts),
        "driven": lambda: driven(demo, arguments.people),
        "two_people": lambda: two_people(demo, arguments.people // 2),
        "length": lambda: length(demo, arguments.clips),
        "vowels": lambda: vowels(demo, arguments.people),
    }
    for name in arguments.only.split(",") if arguments.only else parts:
        part = parts[name]()
        print("\n".join(part), flush=True)
        lines += part
    if arguments.only:
        return
    minutes = (time.monotonic() - started) / 60
    title = "# Measured quality of the demo of 128x128\n"
    RESULT.write_text(
        "\n".join([title, (__doc__ or "").strip(), f"\n{minutes:.0f} minutes.\n", *lines, ""]), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
