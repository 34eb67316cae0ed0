"""One table of what `takes` means, which the runtime and the page read alike, and what the page makes of it."""

import json
from pathlib import Path
from typing import Any

from page_modules import evaluate

from liveavatar_runtime.errors import InputError
from liveavatar_runtime.sampling.takes import parse_takes, print_takes

CASES: dict[str, list[list[Any]]] = json.loads((Path(__file__).parent / "take_cases.json").read_text(encoding="utf-8"))
"""Function -> what it gets, and last what it gives; takes are as they are written, None is refused."""
IN_JAVASCRIPT = """
    const takes = m.parseTakes;
    const all = (texts) => texts.map(takes);
    const place = (text) => ({ clip: parseInt(text) - 1, alone: !text.endsWith("-") });
    const one = (text) => {
        const [where, number] = text.split(": ");
        return { ...place(where), number: Number(number) };
    };
    const calls = {
        parsed: (text) => takes(text) && m.printTakes(takes(text)),
        with_take: (text, take) => m.printTakes(m.withTake(takes(text), one(take))),
        back_to: (text, take, history) => m.printTakes(m.backTo(takes(text), one(take), all(history))),
        numbers: (where, history) => m.numbersOf(place(where), all(history)),
        next_number: (clip, history) => m.nextNumber(clip - 1, all(history)),
        changed: (before, after, clips) =>
            [...m.changedClips(takes(before), takes(after), clips)].sort((a, b) => a - b).map((clip) => clip + 1),
    };
    return given.map(([name, ...values]) => calls[name](...values.slice(0, -1)));
"""


def test_the_runtime_reads_the_table():
    for text, expected in CASES["parsed"]:
        try:
            read = print_takes(parse_takes(text))
        except InputError:
            read = None
        assert read == expected, text


def test_the_page_reads_the_table():
    cases = [(name, *case) for name, rows in CASES.items() for case in rows]
    found = evaluate("takes.js", IN_JAVASCRIPT, cases)
    assert isinstance(found, list)
    for case, result in zip(cases, found, strict=True):
        assert result == case[-1], f"{case} gives {result}"
