"""A picture of stacked bars, each with a line up to which it may be filled: what goes where in memory, at a glance."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from .lettering import length_of, write

WIDTH, MARGIN = 1200, 40
BAR, GAP, CAPTION = 46, 30, 34
"""Heights of a bar, of the room below it, and of the line above it."""
HEADLINE, TEXT, SMALL, LEADING = 36, 24, 20, 12
PAPER, INK, QUIET, EMPTY = "#ffffff", "#1c2530", "#5b6875", "#e6eaee"
GOOD, BAD = "#1a7f4b", "#c02b2b"
COLOURS = ("#3b6fb5", "#e08a1e", "#4a9d8e", "#8a64a8", "#b9566b", "#8c979f", "#857428")
"""Of the parts, apart in hue and in lightness, so that they differ for most colour-blind people too."""


@dataclass(frozen=True)
class Bar:
    """`parts`: bytes by name, from the left; `limit`: up to where it may be filled; `size`: all there is, which is
    the limit or more. `title` and `amount`: what stands above it."""

    title: str
    amount: str
    parts: tuple[tuple[str, float], ...]
    limit: float
    size: float

    @property
    def filled(self) -> float:
        return sum(size for _, size in self.parts)

    @property
    def is_over(self) -> bool:
        return self.filled > self.limit


@dataclass(frozen=True)
class Chart:
    """`headline` in green where all is `well`, in red elsewhere; `lines` below it; then the bars, with what the line in
    each one is (`limit_name`); `last`: lines at the end."""

    headline: str
    well: bool
    lines: tuple[str, ...]
    bars: tuple[Bar, ...]
    limit_name: str
    last: tuple[str, ...] = ()


def draw_chart(chart: Chart) -> Image.Image:
    """RGB, `WIDTH` pixels wide, on its own white ground, so that it reads on a dark page as on a light one."""
    names = list(dict.fromkeys(name for bar in chart.bars for name, size in bar.parts if size > 0))
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}
    head, lines, last = _Text((chart.headline,), HEADLINE), _Text(chart.lines), _Text(chart.last)
    legend = _legend_rows(names, chart.limit_name) if chart.bars else []
    heights = [head.height, lines.height, GAP, len(chart.bars) * (CAPTION + BAR + GAP)]
    heights += [len(legend) * (TEXT + LEADING) + GAP / 2, last.height]
    picture = Image.new("RGB", (WIDTH, round(sum(heights)) + 2 * MARGIN), PAPER)
    tops = [MARGIN + sum(heights[:number]) for number in range(len(heights))]
    head.write(picture, tops[0], GOOD if chart.well else BAD)
    lines.write(picture, tops[1], INK)
    longest = max((max(bar.size, bar.filled) for bar in chart.bars), default=1.0)
    for number, bar in enumerate(chart.bars):
        top = tops[3] + number * (CAPTION + BAR + GAP)
        _draw_bar(picture, bar, colours, top, (WIDTH - 2 * MARGIN) / longest)
    _draw_legend(picture, legend, colours, tops[4])
    last.write(picture, tops[5], INK)
    return picture


class _Text:
    """Paragraphs, wrapped to the width of the picture."""

    def __init__(self, paragraphs: Sequence[str], size: int = TEXT) -> None:
        self._lines = [line for text in paragraphs for line in _wrapped(text, size)]
        self._size = size

    @property
    def height(self) -> int:
        return len(self._lines) * (self._size + LEADING) + (LEADING if self._lines else 0)

    def write(self, picture: Image.Image, top: float, colour: str) -> None:
        for number, line in enumerate(self._lines):
            write(picture, (MARGIN, top + number * (self._size + LEADING)), line, self._size, colour)


def _draw_bar(picture: Image.Image, bar: Bar, colours: dict[str, str], top: float, scale: float) -> None:
    """`scale`: pixels for each byte."""
    pen = ImageDraw.Draw(picture)
    write(picture, (MARGIN, top), bar.title, TEXT, INK)
    after_title = MARGIN + length_of(bar.title, TEXT) + 16
    write(picture, (after_title, top), bar.amount, TEXT, BAD if bar.is_over else QUIET)
    y, left = top + CAPTION, float(MARGIN)
    pen.rectangle((MARGIN, y, MARGIN + bar.size * scale, y + BAR), fill=EMPTY)
    for name, size in bar.parts:
        end = left + size * scale
        if end - left >= 1:
            pen.rectangle((left, y, end - 1, y + BAR), fill=colours[name])
            _inside(picture, _gib(size), (left, y, end))
        left = end
    if bar.is_over:
        pen.rectangle((MARGIN, y, left - 1, y + BAR), outline=BAD, width=4)
    line = MARGIN + bar.limit * scale
    pen.rectangle((line - 2, y - 3, line + 1, y + BAR + 10), fill=BAD if bar.is_over else INK)


def _inside(picture: Image.Image, text: str, place: tuple[float, float, float]) -> None:
    """In the middle of a part (left, top, right), where it has the room."""
    left, top, right = place
    length = length_of(text, SMALL)
    if length + 8 <= right - left:
        x = left + (right - left - length) / 2
        write(picture, (x, top + (BAR - SMALL) / 2 - 2), text, SMALL, PAPER)


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f}"


LegendRow = list[tuple[str, float]]
"""Names with the pixels from the left at which they stand."""
BOX = TEXT


def _legend_rows(names: Sequence[str], limit_name: str) -> list[LegendRow]:
    rows: list[LegendRow] = [[]]
    x = float(MARGIN)
    for name in (*names, limit_name):
        length = BOX + 10 + length_of(name, TEXT) + 36
        if rows[-1] and x + length > WIDTH - MARGIN:
            rows.append([])
            x = float(MARGIN)
        rows[-1].append((name, x))
        x += length
    return rows


def _draw_legend(picture: Image.Image, rows: Sequence[LegendRow], colours: dict[str, str], top: float) -> None:
    pen = ImageDraw.Draw(picture)
    for number, row in enumerate(rows):
        y = top + number * (TEXT + LEADING)
        for name, x in row:
            if name in colours:
                pen.rectangle((x, y + 2, x + BOX, y + 2 + BOX), fill=colours[name])
            else:
                pen.rectangle((x + BOX / 2 - 2, y - 2, x + BOX / 2 + 1, y + BOX + 6), fill=INK)
            write(picture, (x + BOX + 10, y), name, TEXT, INK)


def _wrapped(text: str, size: int) -> list[str]:
    """Lines that fit the width."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and length_of(longer, size) <= WIDTH - 2 * MARGIN:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
