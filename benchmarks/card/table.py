"""A page in Markdown of what was found."""

from collections.abc import Iterator

from .records import Cell, Record, facts, failures, of_kind

FACTS_FIRST = ("card", "memory, GiB", "torch", "CUDA", "driver", "python", "host RAM, GiB", "processor cores", "commit")


def page(records: list[Record]) -> str:
    """Facts, checks, tables in the order in which they began, comparisons, what was left out, errors."""
    lines = [f"# {facts(records).get('card', 'A card')}", ""]
    for section in (_facts, _checks, _tables, _comparisons, _notes, _left_out, _errors, _seconds):
        lines += section(records)
    return "\n".join(lines).rstrip() + "\n"


def factor(record: Record) -> float:
    """Predicted over measured."""
    measured = record["measured"]
    return record["predicted"] / measured if measured else float("inf")


def shown(cell: Cell) -> str:
    """A cell for people: four digits are enough."""
    if cell is None:
        return "-"
    if isinstance(cell, bool) or not isinstance(cell, float):
        return str(cell).replace("|", "/")
    if cell and not 1e-3 <= abs(cell) < 1e6:
        return f"{cell:.2e}"
    return f"{cell:.4g}" if abs(cell) < 1000 else f"{cell:.0f}"


def table_lines(columns: list[str], rows: list[list[str]]) -> list[str]:
    head = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    return [*head, *(f"| {' | '.join(cells)} |" for cells in rows)]


def _facts(records: list[Record]) -> list[str]:
    known = facts(records)
    order = [name for name in FACTS_FIRST if name in known] + [name for name in known if name not in FACTS_FIRST]
    return table_lines(["What", "Value"], [[name, shown(known[name])] for name in order]) + [""]


def _checks(records: list[Record]) -> list[str]:
    checks = of_kind(records, "check")
    broken = [*failures(records, True), *failures(records, False)]
    lines = ["## Checks", ""]
    if not checks and not broken:
        return [*lines, "Nothing was checked.", ""]
    lines.append(f"{sum(check['passed'] for check in checks)} of {len(checks)} checks passed.")
    lines += [f"- **Failed**: {text}" for text in broken]
    rows = [[shown(c["name"]), "yes" if c["passed"] else "**no**", shown(c["detail"])] for c in checks]
    return [*lines, "", *table_lines(["Check", "Passed", "Detail"], rows), ""]


def _tables(records: list[Record]) -> list[str]:
    lines: list[str] = []
    rows = of_kind(records, "row")
    for name in dict.fromkeys(row["table"] for row in rows):
        own = [row["cells"] for row in rows if row["table"] == name]
        columns = list(dict.fromkeys(column for cells in own for column in cells))
        lines += [f"## {name}", ""]
        lines += table_lines(columns, [[shown(cells.get(column)) for column in columns] for cells in own])
        lines.append("")
    return lines


def _comparisons(records: list[Record]) -> list[str]:
    found = of_kind(records, "comparison")
    if not found:
        return []
    columns = ["What", "Predicted", "Measured", "Unit", "Predicted / measured"]
    rows = [
        [r["what"], shown(float(r["predicted"])), shown(float(r["measured"])), r["unit"], f"{factor(r):.2f}"]
        for r in found
    ]
    return ["## The planner against what was measured", "", *table_lines(columns, rows), ""]


def _notes(records: list[Record]) -> list[str]:
    notes = [f"- {record['text']}" for record in of_kind(records, "note")]
    return ["## Notes", "", *notes, ""] if notes else []


def _left_out(records: list[Record]) -> list[str]:
    skips = [f"- {record['part']}, {record['step']}: {record['reason']}" for record in of_kind(records, "skip")]
    return ["## Left out", "", *skips, ""] if skips else []


def _errors(records: list[Record]) -> list[str]:
    errors = [f"- {record['part']}, {record['step']}: {record['text']}" for record in of_kind(records, "error")]
    return ["## Errors", "", "With their tracebacks in results.json.", "", *errors, ""] if errors else []


def _seconds(records: list[Record]) -> list[str]:
    rows = [[r["part"], r["step"], shown(float(r["seconds"]))] for r in of_kind(records, "end")]
    return ["## Seconds of each step", "", *table_lines(["Part", "Step", "Seconds"], rows), ""] if rows else []


def news(record: Record) -> Iterator[str]:
    """A line for the terminal, where there is something to say."""
    kind = record["kind"]
    if kind == "begin":
        yield f"[{record['part']}] {record['step']} ..."
    elif kind == "row":
        yield "    " + ", ".join(f"{name} {shown(cell)}" for name, cell in record["cells"].items())
    elif kind == "check":
        yield f"    {'ok' if record['passed'] else 'FAILED'}: {record['name']}: {record['detail']}"
    elif kind == "skip":
        yield f"[{record['part']}] {record['step']}: left out, {record['reason']}"
    elif kind == "error":
        yield f"    ERROR: {record['text']}"
    elif kind == "note":
        yield f"    {record['text']}"
