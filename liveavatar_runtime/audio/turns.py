"""Who speaks from when: the text of a conversation's turns."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ..duration import format_time, parse_time
from ..errors import InputError, replaced
from .conversation import MAX_SPEAKERS, Span

NOBODY = 0
EXAMPLE = "0:00 1\n0:04 2"
_LINE = re.compile(r"([0-9]+[:：][0-9:：.]*)\s*(.*)")
_NUMBERS = re.compile(r"[0-9]+(?:\s*[\s,，、+&]\s*[0-9]+)*")


@dataclass(frozen=True)
class Turn:
    """From `at` on, in seconds, these speakers are heard, counted from 1; none for a pause. `number`: of the line."""

    at: Fraction
    speakers: tuple[int, ...]
    number: int

    @property
    def name(self) -> str:
        """For messages."""
        return f"line {self.number} of turns"

    def __str__(self) -> str:
        return f"{format_time(self.at)} {' + '.join(map(str, self.speakers)) or NOBODY}"


def read_turns(text: str) -> tuple[Turn, ...]:
    """One line each: the time as in Avatar Script, then a speaker's number, or several; 0 for nobody. # begins a
    comment.

    Raises InputError with the line, what it says and what is allowed.
    """
    turns: list[Turn] = []
    for number, line in enumerate(text.splitlines(), 1):
        written = line.split("#")[0].strip()
        if written:
            turns.append(_read(written, number))
    for before, turn in zip(turns, turns[1:], strict=False):
        if turn.at <= before.at:
            raise InputError(
                f"{turn.name} begins at {format_time(turn.at)}, not after the one above it ({format_time(before.at)}). "
                "Put the lines in the order of their times, and speakers of one time into one line."
            )
    return tuple(turns)


def _read(written: str, number: int) -> Turn:
    line = _LINE.fullmatch(written)
    numbers = line[2].strip() if line else ""
    if line is None or not _NUMBERS.fullmatch(numbers):
        raise InputError(
            f"line {number} of turns is {written!r}. A line is a time and the number of who speaks from then on, such "
            "as 0:04 2; two at once 0:04 1 2, nobody 0:04 0."
        )
    with replaced(InputError, lambda error: InputError(f"line {number} of turns: {error}")):
        at = parse_time(line[1])
    speakers = [int(found) for found in re.findall("[0-9]+", numbers)]
    if max(speakers) > MAX_SPEAKERS or (NOBODY in speakers and len(speakers) > 1):
        raise InputError(
            f"line {number} of turns has the speakers {numbers}; allowed are 1 to {MAX_SPEAKERS}, and {NOBODY} alone "
            "for nobody."
        )
    return Turn(at, tuple(sorted(set(speakers) - {NOBODY})), number)


def spans_of(turns: Sequence[Turn], speaker: int) -> tuple[Span, ...]:
    """When a speaker is heard. Turns that follow each other are one."""
    spans: list[Span] = []
    ends = [turn.at for turn in turns[1:]]
    for turn, stop in zip(turns, [*ends, None], strict=True):
        if speaker not in turn.speakers:
            continue
        if spans and spans[-1].stop == turn.at:
            spans[-1] = Span(spans[-1].first, stop)
        else:
            spans.append(Span(turn.at, stop))
    return tuple(spans)


def starts_of(turns: Sequence[Turn], durations: Sequence[Fraction]) -> list[Fraction]:
    """When each voice begins that is heard once: at the time of its line, without one when the voice before it ends.

    Raises InputError for a line that names no voice or another one than once.
    """
    given: dict[int, Turn] = {}
    for turn in turns:
        (speaker, *others) = turn.speakers or (NOBODY,)
        if others or not 1 <= speaker <= len(durations):
            raise InputError(
                f"{turn.name} is {turn}; one after another, a line says when one of the {len(durations)} voices "
                f"begins, such as {format_time(turn.at)} 2."
            )
        if speaker in given:
            raise InputError(
                f"{turn.name} lets voice {speaker} begin again ({given[speaker].name} has its beginning). A voice is "
                "heard once here; for a conversation with several turns each, put all of it into one recording, or use "
                "together with a track for each speaker."
            )
        given[speaker] = turn
    starts: list[Fraction] = []
    for number, _ in enumerate(durations, 1):
        after = starts[-1] + durations[number - 2] if starts else Fraction(0)
        starts.append(given[number].at if number in given else after)
    return starts
