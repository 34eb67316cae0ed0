"""The text of a script: lines with a time, directives and a prompt, or the same as JSON."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from ..duration import format_time, parse_time
from ..errors import InputError, replaced
from .script import MAX_MOTION, MIN_MOTION

VERSION = 1
"""Of the JSON form; raised when it says something else than before."""
MAX_SEED = 2**64 - 1
MAX_SILENCE = 3600
"""Seconds of one silence."""
DIRECTIVES = ("silence", "seed", "picture", "motion")
FIELDS = ("time", "prompt", *DIRECTIVES)
GOES_ON = re.compile(r"(?:\.{3,}|…+)\s*")
"""How a prompt begins that is written as the rest of another one."""

_JSON = re.compile(r"\s*(?:\{|\[\s*[{\]])")
_TIME = re.compile(r"([0-9]+[:：][^\s\[【]*)\s*")
_DIRECTIVE = re.compile(r"[\[【]([^\]】]*)[\]】]\s*")
_PARTS = re.compile(r"\s*([A-Za-z]+)\s*[\s:：=]\s*(.+?)\s*")
# A prompt that begins with a bracket is written with a backslash in front.
_ESCAPED, _TO_ESCAPE = re.compile(r"\\(?=[\[【\\])"), re.compile(r"[\[【]|\\[\[【\\]")


@dataclass(frozen=True, kw_only=True)
class Line:
    """What begins at a time; what is not named goes on as before.

    `at`: seconds of the finished video, in thousandths. `prompt`: as written, "" for none; the rest of one where it
    begins with "...". `silence`: seconds that are put into the voice at that time. `seed`, `motion`: as in
    `script.Change`. `picture`: number among the pictures, from 1. `number`: which line or entry of the text it is.
    """

    at: Fraction
    prompt: str = ""
    silence: Fraction | None = None
    seed: int | None = None
    picture: int | None = None
    motion: float | None = None
    number: int = field(default=0, compare=False)

    @property
    def name(self) -> str:
        """For messages."""
        return f"line {self.number} of the script"


def read_lines(text: str) -> tuple[Line, ...]:
    """The lines of a script, by ascending time; empty for an empty one.

    Text that begins with `{`, or with `[` and an entry, is JSON: {"version": 1, "lines": [entries]} or the entries
    alone, each {"time": "0:12" or seconds, "prompt": ..., "silence": ..., "seed": ..., "picture": ..., "motion": ...}.
    Raises InputError with the line, what it says and what is allowed.
    """
    lines = _entries(text) if _JSON.match(text) else _written_lines(text)
    for before, line in zip(lines, lines[1:], strict=False):
        if line.at < before.at:
            raise InputError(
                f"{line.name} begins at {format_time(line.at)}, before the one above it ({format_time(before.at)}). "
                "Put the lines in the order of their times."
            )
    full_prompts(lines)
    return tuple(lines)


def full_prompts(lines: Iterable[Line]) -> list[str]:
    """The prompt of each line, "" for none: one that begins with "..." behind the last one that is written in full.

    Raises InputError where there is none before it.
    """
    full, prompts = "", []
    for line in lines:
        rest = GOES_ON.match(line.prompt)
        if rest and not full:
            raise InputError(
                f"{line.name} begins with {rest[0].strip()}, which stands for the prompt before it, and there is none. "
                "Write this prompt in full, or one above it."
            )
        if rest:
            prompts.append(f"{full} {line.prompt[rest.end() :]}".strip())
            continue
        full = line.prompt or full
        prompts.append(line.prompt)
    return prompts


def as_json(lines: Iterable[Line]) -> str:
    """The JSON form, which `read_lines` reads as the same lines."""
    return json.dumps({"version": VERSION, "lines": [_entry(line) for line in lines]}, ensure_ascii=False, indent=1)


def as_text(lines: Iterable[Line]) -> str:
    """A line of text for each, which `read_lines` reads as the same lines."""
    return "\n".join(_written(line) for line in lines)


def _entry(line: Line) -> dict[str, object]:
    silence = None if line.silence is None else _plain(line.silence)
    values = (format_time(line.at), line.prompt or None, silence, line.seed, line.picture, line.motion)
    return {name: value for name, value in zip(FIELDS, values, strict=True) if value is not None}


def _plain(seconds: Fraction) -> float | int:
    """The number of JSON with these digits."""
    return seconds.numerator if seconds.denominator == 1 else float(seconds)


def _written(line: Line) -> str:
    entry = _entry(line)
    directives = (f"[{name} {entry[name]}]" for name in DIRECTIVES if name in entry)
    prompt = f"\\{line.prompt}" if _TO_ESCAPE.match(line.prompt) else line.prompt
    return " ".join(filter(None, [format_time(line.at), *directives, prompt]))


def _written_lines(text: str) -> list[Line]:
    lines: list[Line] = []
    for number, written in enumerate(text.splitlines(), 1):
        if written.strip() and not written.lstrip().startswith("#"):
            lines.append(_read_line(written.strip(), number, lines[-1].at if lines else Fraction(0)))
    return lines


def _read_line(written: str, number: int, time_before: Fraction) -> Line:
    """A line without a time has that of the one above it; it can only be directives, with a prompt or without."""
    line = Line(at=time_before, number=number)
    time, rest = _TIME.match(written), written
    if time:
        with replaced(InputError, lambda error: InputError(f"{line.name}: {error}")):
            line = replace(line, at=parse_time(time[1]))
        rest = written[time.end() :]
    elif not _DIRECTIVE.match(written):
        raise InputError(
            f"{line.name} is {written!r}. A line begins with its time, such as 0:12 or 1:02:30, or with a directive in "
            "brackets, such as [seed 7]; # begins a comment."
        )
    given: dict[str, str] = {}
    while directive := _DIRECTIVE.match(rest):
        name, value = _name_and_value(directive[1], line)
        if name in given:
            raise InputError(f"{line.name} has [{name} ...] twice. Give it once.")
        given[name], rest = value, rest[directive.end() :]
    line = replace(line, prompt=_one_line(_ESCAPED.sub("", rest, count=1) if _ESCAPED.match(rest) else rest))
    return _with_values(line, given)


def _name_and_value(directive: str, line: Line) -> tuple[str, str]:
    parts = _PARTS.fullmatch(directive)
    name = parts[1].lower() if parts else ""
    if parts is None or name not in DIRECTIVES:
        raise InputError(
            f"{line.name} has [{directive}]. Directives are [silence SECONDS], [seed NUMBER], [picture NUMBER] and "
            "[motion STRENGTH]; a prompt that begins with a bracket is written with a backslash in front of it."
        )
    return name, parts[2]


def _entries(text: str) -> list[Line]:
    def unreadable(error: BaseException) -> InputError:
        return InputError(
            f'the script begins as JSON and is none ({error}). Give {{"version": {VERSION}, "lines": [...]}} or a list '
            'of entries such as {"time": "0:12", "prompt": "..."}, or write lines such as 0:12 A prompt.'
        )

    with replaced((ValueError, RecursionError), unreadable):
        content = json.loads(text)
    entries = content
    if isinstance(content, dict):
        if unknown := sorted(set(content) - {"version", "lines"}):
            raise InputError(
                f"the script's JSON has {', '.join(map(repr, unknown))}; allowed are 'version' and 'lines'."
            )
        if content.get("version", VERSION) != VERSION:
            raise InputError(
                f"the script's JSON has version {content['version']!r}; this version of the pack reads {VERSION}."
            )
        entries = content.get("lines")
    if not isinstance(entries, list):
        raise InputError(f"the script's JSON has no list of lines: 'lines' is {type(entries).__name__}.")
    return [_read_entry(entry, number) for number, entry in enumerate(entries, 1)]


def _read_entry(entry: object, number: int) -> Line:
    line = Line(at=Fraction(0), number=number)
    if not isinstance(entry, dict) or "time" not in entry or len(entry) < 2 or set(entry) - set(FIELDS):
        raise InputError(
            f"{line.name} is {json.dumps(entry, ensure_ascii=False)}. An entry has a time and at least one of "
            f"{', '.join(FIELDS[1:])}, and nothing else."
        )
    time, prompt = entry["time"], entry.get("prompt", "")
    if isinstance(time, bool) or not isinstance(time, (str, int, float)):
        time = json.dumps(time)
    if not isinstance(prompt, str):
        raise InputError(f"{line.name} has the prompt {json.dumps(prompt)}; a prompt is a text.")
    with replaced(InputError, lambda error: InputError(f"{line.name}: {error}")):
        line = replace(line, at=parse_time(str(time)), prompt=_one_line(prompt))
    return _with_values(line, {name: entry[name] for name in DIRECTIVES if name in entry})


def _with_values(line: Line, given: Mapping[str, Any]) -> Line:
    """With the values of its directives. Raises InputError for those that are not allowed, and for no content."""
    values: dict[str, Any] = {}
    if "silence" in given:
        values["silence"] = _number(line, "silence", given["silence"], Fraction(1, 1000), MAX_SILENCE)
    if "seed" in given:
        values["seed"] = _whole(line, "seed", given["seed"], 0, MAX_SEED)
    if "picture" in given:
        values["picture"] = _whole(line, "picture", given["picture"], 1, 10_000)
    if "motion" in given:
        values["motion"] = float(_number(line, "motion", given["motion"], Fraction(MIN_MOTION), Fraction(MAX_MOTION)))
    if not values and not line.prompt:
        raise InputError(f"{line.name} has a time and nothing else. Give it a prompt or a directive such as [seed 7].")
    return replace(line, **values)


def _whole(line: Line, name: str, value: object, low: int, high: int) -> int:
    """A whole number as a text or as JSON has it."""
    text = str(value).strip()
    if isinstance(value, (bool, float)) or not re.fullmatch("[0-9]{1,20}", text) or not low <= int(text) <= high:
        raise InputError(f"{line.name} gives {name} as {value!r}; allowed are whole numbers from {low} to {high}.")
    return int(text)


def _number(line: Line, name: str, value: object, low: Fraction, high: Fraction | int) -> Fraction:
    """A number to the nearest thousandth; seconds may have an s behind them."""
    text = str(value).strip().removesuffix("s").rstrip()
    is_number = not isinstance(value, bool) and re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{0,30})?|\.[0-9]{1,30}", text)
    number = round(Fraction(text), 3) if is_number else None
    if number is None or not low <= number <= high:
        raise InputError(f"{line.name} gives {name} as {value!r}; allowed are {float(low):g} to {float(high):g}.")
    return number


def _one_line(prompt: str) -> str:
    return " ".join(part.strip() for part in prompt.splitlines() if part.strip())
