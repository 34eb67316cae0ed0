"""Part 5: the planner against what was measured, and the calibration that it reads from then on."""

import math
import re
import shutil
import statistics
from datetime import date
from pathlib import Path

from benchmarks import ROOT
from liveavatar_runtime.planning.calibration import FOLDER, Calibration, short_name

from .records import Record, facts, of_kind, rates
from .table import factor

RESULTS = ROOT / "benchmarks" / "results"


def file_name(card: str) -> str:
    """Of letters, digits and dashes: "NVIDIA H100 80GB HBM3" -> "h100"."""
    return re.sub(r"[^a-z0-9]+", "-", short_name(card).lower()).strip("-") or "unknown"


def calibration_of(records: list[Record]) -> Calibration | None:
    """None when the card's memory or an evaluation's rate was not measured: on a processor, or after an error."""
    known, measured = facts(records), rates(records)
    memory, flops = known.get("memory, bytes"), measured.get("evaluation")
    if memory is None or flops is None:
        return None
    return Calibration(
        card=str(known["card"]),
        memory=float(memory),
        flops=flops,
        decode_flops=measured.get("decoding"),
        matmul_flops=measured.get("matmul bf16"),
        host_bandwidth=measured.get("copy: RAM (pinned) to card"),
        measured_with=f"torch {known.get('torch')}, driver {known.get('driver')}, {date.today().isoformat()}",
    )


def summary(records: list[Record]) -> list[str]:
    """Factors of all comparisons, the furthest first, and the median."""
    found = of_kind(records, "comparison")
    if not found:
        return ["Nothing of the planner's was measured."]

    def far(record: Record) -> float:
        off = factor(record)
        return abs(math.log(off)) if 0 < off < math.inf else math.inf

    ordered = sorted(found, key=far, reverse=True)
    lines = [f"{factor(record):6.2f}  {record['what']} ({record['unit']})" for record in ordered]
    middle = statistics.median(factor(record) for record in found)
    return ["The planner's predictions over what was measured, the furthest first:", *lines, f"Median {middle:.2f}."]


def adopt(folder: Path) -> list[str]:
    """Copies page and calibration of a run from its folder into the repository; returns what was done and what is
    still to do. Raises FileNotFoundError when the folder has none."""
    pages, calibrations = sorted(folder.glob("card-*.md")), sorted(folder.glob("calibration-*.json"))
    if not pages:
        raise FileNotFoundError(f"{folder} has no card-<name>.md; give the folder that --out named")
    done = []
    for source, target in [(page, RESULTS) for page in pages] + [(one, FOLDER) for one in calibrations]:
        target.mkdir(parents=True, exist_ok=True)
        name = source.name.removeprefix("calibration-")
        shutil.copyfile(source, target / name)
        done.append(f"wrote {(target / name).relative_to(ROOT)}")
    if calibrations:
        done.append(
            "The planner's table has changed: put what python -m liveavatar_runtime.executors.advisor prints into "
            "docs/EXECUTORS.md, the first row of each machine into docs/MEMORY.md, and what "
            "python -m benchmarks.card_table prints into README.md."
        )
    return done
