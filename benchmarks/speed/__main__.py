"""Measures the pack beside its peers in one process: an evaluation, a layer, decoding, the demo end to end and in
ComfyUI, what a clip costs after many, the executors, the start of ComfyUI.

    python -m benchmarks.speed --comfyui DIR --original DIR --out benchmarks/results

A peer whose folder is not given is left out, with a sentence. --quick tries everything with two pairs each; its numbers
mean nothing.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from . import decoding, end_to_end, evaluation, executors, original, report, starting
from .peers import make_comfyui_importable
from .setup import Row, Setup

PARTS: dict[str, Callable[[Setup], Iterator[Row]]] = {
    "evaluation": evaluation.rows,
    "layer": original.rows,
    "decoding": decoding.rows,
    "end_to_end": end_to_end.rows,
    "executors": executors.rows,
    "start": starting.rows,
}


def main(arguments: list[str] | None = None) -> None:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--comfyui", type=Path, help="ComfyUI's folder, the one with main.py")
    made.add_argument("--original", type=Path, help="a checkout of the original program")
    made.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas (default: %(default)s)")
    made.add_argument("--threads", type=int, default=1, help="of a processor; 1 disturbs other programs least")
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--quick", action="store_true")
    made.add_argument("--out", type=Path, help="folder for speed.md, speed.json and speed.png")
    options = made.parse_args(arguments)
    chosen = options.only.split(",")
    unknown = [name for name in chosen if name not in PARTS]
    if unknown:
        made.error(f"--only: {', '.join(unknown)} unknown; allowed are {', '.join(PARTS)}")
    torch.set_num_threads(options.threads)
    comfyui = options.comfyui and options.comfyui.resolve()
    if comfyui is not None:
        make_comfyui_importable(comfyui)
    setup = Setup(torch.device(options.device), comfyui, options.original and options.original.resolve(), options.quick)
    where, found = report.machine(setup.device, options.threads), []
    for name in chosen:
        for row in PARTS[name](setup):
            found.append(row)
            print(f"{row.part}: {row.what} {row.why_not or report.values_of(row)}", flush=True)
    print("\n" + report.table(found, where))
    if options.out is not None:
        report.write(found, where, options.out)


if __name__ == "__main__":
    main()
