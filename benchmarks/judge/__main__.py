"""Measures the clip judge by the faults that it finds in videos of the demo model: `python -m benchmarks.judge`.

Videos of held-out people are made with the demo model, in two sets that share neither a person nor a voice: one that
the judge's bounds were chosen with, and one that they never saw. Faults of several sizes are put into them at random
clips; each video goes through a file, as Online VAE Decode writes it. Writes results/judge.md, judge.json and
docs/images/judge.png. `--set making` prints what the bounds are chosen by, and writes nothing.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import ROOT
from benchmarks.speed.report import machine

from .report import as_json, drawn, ranges, table
from .trial import Trial, trials
from .videos import videos

RESULTS, PICTURE = ROOT / "benchmarks" / "results", ROOT / "docs" / "images" / "judge.png"
COUNTS = {"making": (18, 1), "held-out": (18, 2)}
"""Videos of a set, and how often each fault is put into each of them."""
OFFSETS = {"making": 0, "held-out": 9}
"""Pairs of people that are left out: nine of the held-out ones were looked at before the judge was finished."""


def tried_set(which: str, arguments: argparse.Namespace) -> list[Trial]:
    """All trials of a set, with a line for each video."""
    found: list[Trial] = []
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        made = videos(
            which,
            arguments.count or COUNTS[which][0],
            arguments.bundle,
            arguments.cache,
            OFFSETS[which] + arguments.offset,
        )
        for number, video in enumerate(made):
            new = list(trials(video, number, COUNTS[which][1], Path(folder)))
            found += new
            missed = [
                f"{t.fault} {t.size}{' lasting' if t.lasts else ''}"
                for t in new
                if t.fault != "none" and not t.is_found
            ]
            alarms = sum(len(trial.false_alarms) for trial in new)
            seconds = time.process_time() - begun
            print(
                f"{which} {number + 1}: missed {missed or 'nothing'}, {alarms} false alarms, {seconds:.0f} s",
                flush=True,
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=ROOT / "demo" / "liveavatar-demo")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "liveavatar-judge")
    parser.add_argument("--set", choices=[*COUNTS, "both"], default="both")
    parser.add_argument("--count", type=int, default=0, help="videos of a set (default 18)")
    parser.add_argument("--offset", type=int, default=0, help="further pairs of people that are left out: another set")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sets = COUNTS if arguments.set == "both" else [arguments.set]
    found = {which: tried_set(which, arguments) for which in sets}
    for which, tried in found.items():
        print(f"\n{which}\n\n{table(tried)}\n\n{ranges(tried)}\n")
    if arguments.set == "both":
        text = (
            "# What the clip judge finds\n\n"
            f"By `python -m benchmarks.judge`, {machine(torch.device('cpu'), torch.get_num_threads())}. "
        )
        written = as_text(text, found)
        (RESULTS / "judge.md").write_text(written, encoding="utf-8")
        (RESULTS / "judge.json").write_text(json.dumps(as_json(found), indent=1) + "\n", encoding="utf-8")
        drawn(found["held-out"]).save(PICTURE, optimize=True)
        print(written)


def as_text(head: str, found: dict[str, list[Trial]]) -> str:
    """The report."""
    making, held_out = found["making"], found["held-out"]
    videos_of = {which: sum(trial.fault == "none" for trial in tried) for which, tried in found.items()}
    return (
        f"{head}Videos of the demo model (64x64, 8 clips of 48 frames, 25 and 16 frames a second), written as h264 "
        f"with crf 18 and read again by the node's own code; faults are put into what was read. "
        f"The bounds were chosen with {videos_of['making']} videos; "
        f"{videos_of['held-out']} others, of other people **and** other voices, test them. Each video is judged "
        "as it is, and with each fault, once or twice, its sizes in turn, at a random clip; half of them last until "
        "the video ends. "
        "A fault is found when a clip that it is in is flagged. A false alarm is a flagged clip that no fault has "
        "touched. Goals: 95 % found, 1 % false alarms.\n\n"
        f"## Held out\n\n{table(held_out)}\n\n![Faults found by kind and size](../../docs/images/judge.png)\n\n"
        f"## The set that the bounds were chosen with\n\n{table(making)}\n\n"
        f"## Values of clips that no fault touched\n\nOf the making set: 1st and 99th of 100, and the extremes.\n\n"
        f"{ranges(making)}\n"
    )


if __name__ == "__main__":
    main()
