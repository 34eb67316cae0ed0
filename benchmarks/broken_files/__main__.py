"""Loads thousands of broken files with every loader, and counts what users would read.

    python -m benchmarks.broken_files [--loads 400] [--first 0] [--only NAME ...] [--write]

Run it where COMFYUI_PATH names a ComfyUI (default: the one of scripts/prepare.sh). Each load has a seed: the loader's
name and its number. `--write` records the table in benchmarks/results/broken_files.md.
"""

import argparse
import importlib
import importlib.util
import os
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from random import Random
from types import ModuleType

from pack_modules import folder_of

from benchmarks import ROOT

from .loaders import RUNTIME, Loader, bundle_loaders
from .mutations import steps
from .trial import LOADED, NAMELESS, RAW, REFUSED, Outcome, Trial

RESULT = ROOT / "benchmarks" / "results" / "broken_files.md"
SECONDS, MEMORY = 1.0, 200e6
SHOWN = 5


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--loads", type=int, default=400, help="broken files for each loader")
    options.add_argument("--first", type=int, default=0, help="number of the first one")
    options.add_argument("--only", nargs="*", help="loaders by name")
    options.add_argument("--write", action="store_true", help=f"record it in {RESULT.relative_to(ROOT)}")
    given = options.parse_args()
    warnings.simplefilter("ignore")
    loaders = [
        loader for loader in (*RUNTIME, *bundle_loaders(*_nodes())) if loader.name in (given.only or [loader.name])
    ]
    rows, wrong = [], 0
    for loader in loaders:
        outcomes = [*_tried(loader, range(given.first, given.first + given.loads))]
        rows.append(_row(loader, outcomes))
        wrong += sum(_is_wrong(outcome) for outcome in outcomes)
        print(rows[-1], flush=True)
    if given.write:
        RESULT.write_text(_report(rows, given.loads * len(loaders), wrong), encoding="utf-8")
    print(f"{given.loads * len(loaders)} loads, {wrong} wrong")
    return int(wrong > 0)


def _tried(loader: Loader, numbers: range) -> list[Outcome]:
    with tempfile.TemporaryDirectory() as folder:
        trial, outcomes, shown = Trial(loader, Path(folder)), [], 0
        for number in numbers:
            outcome = trial.mutated(steps(loader.kinds, Random(f"{loader.name} {number}")))
            outcomes.append(outcome)
            if _is_wrong(outcome) and (shown := shown + 1) <= SHOWN:
                print(
                    f"  {loader.name} {number}: {outcome.kind}, {outcome.seconds:.2f} s, {outcome.memory / 1e6:.0f} MB"
                )
                print(f"    {outcome.text[:300]!r}")
        return outcomes


def _is_wrong(outcome: Outcome) -> bool:
    return outcome.kind in (RAW, NAMELESS) or outcome.seconds > SECONDS or outcome.memory > MEMORY


def _row(loader: Loader, outcomes: list[Outcome]) -> str:
    counts = Counter(outcome.kind for outcome in outcomes)
    figures = [len(outcomes), *(counts[kind] for kind in (LOADED, REFUSED, NAMELESS, RAW))]
    slowest, largest = max(one.seconds for one in outcomes), max(one.memory for one in outcomes)
    return f"| {' | '.join([loader.name, *map(str, figures), f'{slowest:.2f} s', f'{largest / 1e6:.0f} MB'])} |"


def _report(rows: list[str], loads: int, wrong: int) -> str:
    lines = [
        "# Broken files",
        "",
        f"`python -m benchmarks.broken_files`: {loads} loads of files that were broken by seeded mutations (bytes",
        "flipped, cut, repeated; headers, configs and metadata with other values; whole files of other tensors).",
        f"{wrong} of them ended in an exception that is not ours, in a message without the file's name, took longer",
        "than a second of processor time or more than 200 MB. Those that load differ only in values, or in what nobody",
        "reads.",
        "",
        "| loader | loads | loaded | refused by name | refused without | other exceptions | slowest | memory |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *rows,
    ]
    return "\n".join(lines) + "\n"


def _nodes() -> tuple[ModuleType, ModuleType]:
    """The pack's `nodes.bundle_clip` and `nodes.bundle_parts`, in a ComfyUI on the processor without a server."""
    sys.path.insert(0, os.environ.get("COMFYUI_PATH", str(ROOT / ".comfyui" / "ComfyUI")))
    import comfy.options

    comfy.options.enable_args_parsing(False)
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    name = "liveavatar_pack"
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec and spec.loader
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    clip, parts = (
        importlib.import_module(f"{name}.{folder_of(part)}.{part}") for part in ("bundle_clip", "bundle_parts")
    )
    return clip, parts


if __name__ == "__main__":
    raise SystemExit(main())
