"""What was found: one JSON object a line, in the file as soon as it is known. `table.py` makes a page of them."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Cell = str | float | int | None
Record = dict[str, Any]
Kind = Literal["fact", "row", "check", "comparison", "rate", "skip", "error", "note", "begin", "end"]
RECORDS = "records.jsonl"
"""The file that grows while it is measured."""


@dataclass
class Recorder:
    """Appends records of one part to a file. Numbers that are no JSON (NaN, infinity) become text."""

    path: Path
    part: str
    step: str = ""
    _begun: float = field(default=0.0, repr=False)

    def write(self, kind: Kind, **values: Any) -> None:
        record = {"kind": kind, "part": self.part, "step": self.step, **values}
        line = json.dumps(_plain(record), ensure_ascii=False, allow_nan=False)
        # Opened anew each time: what was written is on its way to the disk, whatever happens to this process.
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def begin(self, step: str, number: int = 0) -> None:
        """`number`: of the step in its part, from which a new process goes on."""
        self.step, self._begun = step, time.monotonic()
        self.write("begin", number=number)

    def end(self) -> None:
        self.write("end", seconds=time.monotonic() - self._begun)

    def fact(self, name: str, value: Any) -> None:
        """Something about the machine or the run."""
        self.write("fact", name=name, value=value)

    def row(self, table: str, **cells: Cell) -> None:
        """A row of a table; a cell's name is the head of its column."""
        self.write("row", table=table, cells=cells)

    def check(self, name: str, passed: bool, detail: str, correctness: bool = True) -> None:
        """`correctness`: whether a result is wrong when it fails, which the exit code tells; otherwise a plan is."""
        self.write("check", name=name, passed=passed, detail=detail, correctness=correctness)

    def compare(self, what: str, predicted: float, measured: float, unit: str) -> None:
        """A prediction of the planner and what was measured."""
        self.write("comparison", what=what, predicted=predicted, measured=measured, unit=unit)

    def rate(self, name: str, value: float) -> None:
        """What a calibration is made of."""
        self.write("rate", name=name, value=value)

    def skip(self, reason: str) -> None:
        self.write("skip", reason=reason)

    def note(self, text: str) -> None:
        self.write("note", text=text)

    def error(self, text: str, trace: str, checks: bool) -> None:
        """`checks`: the step was to show that results are right."""
        self.write("error", text=text, traceback=trace, checks=checks)


def read_records(path: Path) -> list[Record]:
    """Records that are there; a line that is still being written is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def of_kind(records: list[Record], kind: Kind) -> list[Record]:
    return [record for record in records if record["kind"] == kind]


def facts(records: list[Record]) -> dict[str, Any]:
    return {record["name"]: record["value"] for record in of_kind(records, "fact")}


def rates(records: list[Record]) -> dict[str, float]:
    """The last of each name."""
    return {record["name"]: record["value"] for record in of_kind(records, "rate")}


def failures(records: list[Record], correctness: bool) -> Iterator[str]:
    """Checks that failed; with `correctness` also steps of checks that ended in an error."""
    for record in records:
        if record["kind"] == "check" and not record["passed"] and record["correctness"] == correctness:
            yield f"{record['name']}: {record['detail']}"
        elif record["kind"] == "error" and record["checks"] and correctness:
            yield f"{record['step']}: {record['text']}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return str(value)
