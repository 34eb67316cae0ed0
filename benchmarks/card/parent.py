"""Starts the parts one after the other, each in a process of its own, and writes the pages while they run."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from .budget import Budget
from .child import NO_CARD, SPOILED, Task
from .compare import calibration_of, file_name, summary
from .plan import PARTS, Part
from .records import RECORDS, Record, Recorder, facts, failures, read_records
from .table import news, page

POLL_SECONDS = 0.5
LATE_SECONDS = 20.0
"""After its part's end, that a step may still take."""
RESULTS, LOG = "results.json", "log.txt"
TAIL = 6000
"""Characters of the log that are told of a process that ended by itself."""
MOST_BYTES = 15 * 2**20
"""Of the log."""


@dataclass(frozen=True)
class Options:
    out: Path
    minutes: float
    tiny: bool = False
    tiny_on_card: bool = False
    comfyui: Path | None = None
    original: Path | None = None
    only: tuple[str, ...] = ()


@dataclass
class Pages:
    """The results' files, written anew whenever there are new records."""

    out: Path
    write: Callable[[str], None]
    told: int = 0

    def update(self) -> list[Record]:
        records = read_records(self.out / RECORDS)
        fresh = records[self.told :]
        if fresh:
            for record in fresh:
                for line in news(record):
                    self.write(line)
            self.told = len(records)
            self.save(records)
        return records

    def save(self, records: list[Record]) -> None:
        _replace(self.out / RESULTS, json.dumps(records, ensure_ascii=False, indent=1))
        card = facts(records).get("card")
        if card is None:
            return
        _replace(self.out / f"card-{file_name(str(card))}.md", page(records))
        calibration = calibration_of(records)
        if calibration is not None:
            _replace(self.out / f"calibration-{file_name(str(card))}.json", calibration.to_json())


def _replace(path: Path, text: str) -> None:
    """At no time is there half a file."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def measure(options: Options, write: Callable[[str], None] = print) -> int:
    """All parts; returns 1 when a check of a result failed, 2 when there is no card, else 0."""
    options.out.mkdir(parents=True, exist_ok=True)
    for left in (RECORDS, LOG):
        (options.out / left).unlink(missing_ok=True)
    budget, pages = Budget.of_minutes(options.minutes), Pages(options.out, write)
    for part in PARTS:
        wanted = not options.only or part.name in options.only
        if wanted and not _run(part, options, budget.at_most(60 * options.minutes * part.share), pages):
            write("PyTorch sees no CUDA card here. --tiny tries all of it on the processor.")
            return 2
    records = pages.update()
    pages.save(records)
    # All of it is in results.json now.
    (options.out / RECORDS).unlink(missing_ok=True)
    _shorten(options.out / LOG)
    for line in ["", *summary(records), ""]:
        write(line)
    wrong, off = list(failures(records, True)), list(failures(records, False))
    for text in wrong:
        write(f"WRONG: {text}")
    for text in off:
        write(f"off the plan: {text}")
    write(f"{len(wrong)} results are wrong, {len(off)} plans are off. All of it is in {options.out}.")
    return 1 if wrong else 0


def _run(part: Part, options: Options, budget: Budget, pages: Pages) -> bool:
    """A part's steps; after one that ended its process, a new process goes on with the next. False without a card."""
    task = Task(
        part=part.name,
        records=options.out / RECORDS,
        until=budget.until,
        tiny=options.tiny,
        tiny_on_card=options.tiny_on_card,
        comfyui=options.comfyui,
        original=options.original,
    )
    recorder = Recorder(options.out / RECORDS, part.name)
    while True:
        if budget.left() < 1 and not options.tiny:
            recorder.step = "all that is left"
            recorder.skip("the time is over")
            break
        code = _process(task, options.out / LOG, budget, pages)
        if code == NO_CARD:
            return False
        if code == 0:
            break
        begun = _begun(pages.update(), part.name)
        if code != SPOILED:
            recorder.step = begun[-1]["step"] if begun else "the part's start"
            recorder.error(f"its process ended with code {code}", _tail(options.out / LOG), checks=part.name == "right")
        if not begun or begun[-1]["number"] < task.first:
            # Not one step was begun: it would be so again.
            break
        task = replace(task, first=begun[-1]["number"] + 1)
    pages.update()
    return True


def _begun(records: list[Record], part: str) -> list[Record]:
    """Begins of a part's steps, in order."""
    return [record for record in records if record["kind"] == "begin" and record["part"] == part]


def _process(task: Task, log: Path, budget: Budget, pages: Pages) -> int:
    """One process of a part, until it ends or is far too late."""
    command = [sys.executable, "-u", "-m", "benchmarks.card.child", *task.arguments()]
    root = str(Path(__file__).resolve().parents[2])
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=root, env=os.environ.copy())
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            pages.update()
            late = time.time() - budget.until
            if late > LATE_SECONDS and not task.tiny:
                process.kill()
                process.wait()
    return process.returncode


def _tail(log: Path) -> str:
    return log.read_bytes()[-TAIL:].decode("utf-8", errors="replace")


def _shorten(log: Path) -> None:
    """To its end, when it is too large to travel."""
    if log.exists() and log.stat().st_size > MOST_BYTES:
        log.write_bytes(log.read_bytes()[-MOST_BYTES:])
