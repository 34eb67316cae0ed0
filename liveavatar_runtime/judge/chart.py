"""A judgement as a picture: a row for each check, a column for each clip, red where something looks wrong."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from ..media.lettering import length_of, write
from .checks import CHECKS, Check
from .judgement import Judgement, numbers_text

WIDTH, MARGIN, NAMES = 1200, 40, 290
"""Pixels of the picture, around it, and of the checks' names."""
ROW, GAP, HEADLINE, TEXT, SMALL = 40, 6, 34, 22, 18
PAPER, INK, QUIET, UNKNOWN = "#ffffff", "#1c2530", "#5b6875", "#e6eaee"
GOOD, FAIR, BAD = (62, 142, 105), (240, 196, 92), (200, 44, 44)
"""Of values at their best, at their bound, and beyond it: apart in lightness too."""


def draw_judgement(judgement: Judgement) -> Image.Image:
    """RGB, `WIDTH` pixels wide, on its own white ground."""
    lines = _wrapped([judgement.headline, *judgement.notes()])
    top = MARGIN + HEADLINE + 16 + (len(lines) - 1) * (TEXT + 8) + 16
    height = top + len(CHECKS) * (ROW + GAP) + 2 * (SMALL + 14) + MARGIN
    picture = Image.new("RGB", (WIDTH, height), PAPER)
    colour = "#c82c2c" if judgement.faults else "#1a7f4b"
    write(picture, (MARGIN, MARGIN), lines[0], 28, colour)
    for number, line in enumerate(lines[1:]):
        write(picture, (MARGIN, MARGIN + HEADLINE + 16 + number * (TEXT + 8)), line, TEXT, QUIET)
    for number, check in enumerate(CHECKS):
        y = top + number * (ROW + GAP)
        write(picture, (MARGIN, y + (ROW - TEXT) / 2 - 2), check.name, TEXT, INK)
        _draw_row(picture, judgement, check, y)
    _draw_numbers(picture, judgement, top + len(CHECKS) * (ROW + GAP))
    return picture


def _columns(judgement: Judgement) -> list[tuple[float, float, Sequence[int]]]:
    """Left and right edge of each column, and the places of its clips: several where there is no room for each."""
    room, count = WIDTH - 2 * MARGIN - NAMES, max(1, len(judgement.clips))
    columns = min(count, room // 3)
    left, step = MARGIN + NAMES, room / columns
    return [
        (left + n * step, left + (n + 1) * step, range(n * count // columns, (n + 1) * count // columns))
        for n in range(columns)
    ]


def _draw_row(picture: Image.Image, judgement: Judgement, check: Check, top: float) -> None:
    pen = ImageDraw.Draw(picture)
    for left, right, places in _columns(judgement):
        clips = [judgement.clips[place] for place in places if place < len(judgement.clips)]
        worst = max(clips, key=lambda clip: check.severity(clip.measures) or -1.0, default=None)
        severity = None if worst is None else check.severity(worst.measures)
        gap = 2 if right - left > 8 else 0
        pen.rectangle((left, top, right - gap - 1, top + ROW), fill=_colour(severity))
        if worst is not None and severity is not None:
            text = check.shown(worst.measures)
            length = length_of(text, SMALL)
            if length + 6 <= right - left:
                ink = "#ffffff" if severity > 1 or severity < 0.5 else INK
                write(
                    picture, (left + (right - gap - left - length) / 2, top + (ROW - SMALL) / 2 - 2), text, SMALL, ink
                )


def _colour(severity: float | None) -> str | tuple[int, int, int]:
    if severity is None:
        return UNKNOWN
    if severity > 1:
        return BAD
    red, green, blue = (round(good + severity * (fair - good)) for good, fair in zip(GOOD, FAIR, strict=True))
    return red, green, blue


def _draw_numbers(picture: Image.Image, judgement: Judgement, top: float) -> None:
    """Of the clips, as far as there is room; of those that look wrong in red and bold type."""
    write(picture, (MARGIN, top + 6), "clip", TEXT, QUIET)
    end = 0.0
    columns = _columns(judgement)
    wrong = [any(judgement.clips[place].clip in judgement.faults for place in places) for *_, places in columns]
    # Those that look wrong come first, so that the others take no room from them.
    taken: list[tuple[float, float]] = []
    for is_wrong in (True, False):
        for (left, right, places), wrong_here in zip(columns, wrong, strict=True):
            if wrong_here is not is_wrong or not places:
                continue
            text = numbers_text([judgement.clips[places[0]].clip])
            length = length_of(text, SMALL)
            start = (left + right - length) / 2
            end = start + length
            if all(end + 6 < other or start > other_end + 6 for other, other_end in taken):
                taken.append((start, end))
                write(picture, (start, top + 8), text, SMALL, "#c82c2c" if is_wrong else QUIET)


def _wrapped(paragraphs: Sequence[str]) -> list[str]:
    """Lines that fit the width; the first paragraph in large letters."""
    lines: list[str] = []
    for number, paragraph in enumerate(paragraphs):
        lines.append("")
        for word in paragraph.split():
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and length_of(longer, 28 if number == 0 else TEXT) > WIDTH - 2 * MARGIN:
                lines.append(word)
            else:
                lines[-1] = longer
    return lines
