"""The report of a run: what was made, with what, how fast, what held it up, and how full the memory was."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .distribution import Summary
from .stage_times import VideoTimes
from .texts import gib, seconds_text, size_text

FORMAT = 1
"""Of the JSON text."""
DIGITS = 4
UNEVEN = 0.15
"""Variation of block times above which other programs, heat or memory that is too small disturb a run."""
FINISHED, INTERRUPTED = "finished", "interrupted"
Row = Sequence[object]


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The most that was taken of a device, in bytes; of the processor, by this process of the RAM."""

    device: str
    name: str
    used: int
    total: int


@dataclass(frozen=True, kw_only=True)
class MadeVideo:
    """The file, and what is in it: frames of `wanted_frames`, exact seconds of picture."""

    file: str
    clips: int
    infer_frames: int
    width: int
    height: int
    frames: int
    wanted_frames: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Of one figure, before the run: its bounds and what is likely."""

    low: float
    likely: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """Blocks that were sampled in this run, also those of a warm-up that are not shown: their number, seconds until
    the first one, and what each of the others took. Without any, all came from the disk."""

    blocks: int = 0
    first_block: float | None = None
    each: Summary | None = None


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """One run. `ended`: "finished", "interrupted", or the error. `unknown`: what could not be found out, in sentences.
    `predicted`: by name of a figure of `measured`; `predicted_from`: what the speed was known from."""

    ended: str
    date: str
    video: MadeVideo
    settings: Mapping[str, object]
    versions: Mapping[str, object]
    times: VideoTimes
    sampled: Sampled = field(default_factory=Sampled)
    peaks: Sequence[Peak] = ()
    predicted: Mapping[str, Prediction] = field(default_factory=dict)
    predicted_from: str = "unknown"
    warnings: Sequence[str] = ()
    unknown: Sequence[str] = ()
    judged: Mapping[str, object] | None = None
    """What the clip judge found; None where it did not look."""
    judged_tables: str = ""
    """The same in Markdown."""

    @property
    def realtime(self) -> float | None:
        """Seconds of video made in a second, once the decoder is prepared."""
        seconds = self.times.seconds - self.times.preparing
        return self.video.seconds / seconds if seconds > 0 else None

    @property
    def first_block(self) -> float | None:
        """Seconds from the beginning of sampling until the first block was in the file."""
        return None if self.times.first_block is None else self.times.first_block - self.times.preparing

    @property
    def measured(self) -> dict[str, float | None]:
        """What is predicted too, as it came."""
        each, times = self.sampled.each, self.times
        return {
            "block_seconds": each.median if each is not None else None,
            "first_block_seconds": self.first_block if self.sampled.blocks and not times.replayed else None,
            "seconds": times.seconds - times.preparing if self.ended == FINISHED and not times.replayed else None,
        }

    def as_json(self) -> str:
        """Numbers have four digits; seconds and bytes, as the names say."""
        times, each = self.times, self.sampled.each
        values = {
            "format": FORMAT,
            "ended": self.ended,
            "date": self.date,
            "video": asdict(self.video),
            "seconds": times.seconds,
            "realtime": self.realtime,
            "first_frame_seconds": times.first_block,
            "blocks": {"written": times.written, "replayed": times.replayed, "sampled": self.sampled.blocks},
            "first_block_seconds": self.first_block,
            "first_block_sampled_seconds": self.sampled.first_block,
            "block_seconds": asdict(each) if each is not None else None,
            "stages": {
                "preparing_seconds": times.preparing,
                "worked_seconds": times.work(),
                "waited_seconds": times.waits(),
                "bottleneck": times.bottleneck(),
            },
            "bottleneck": times.sentence(),
            "memory": [asdict(peak) for peak in self.peaks],
            "predicted": {name: asdict(value) for name, value in self.predicted.items()},
            "predicted_from": self.predicted_from,
            "measured": self.measured,
            **({} if self.judged is None else {"judge": dict(self.judged)}),
            "settings": dict(self.settings),
            "versions": dict(self.versions),
            "warnings": list(self.warnings),
            "not_known": list(self.unknown),
        }
        return json.dumps(_rounded(values), ensure_ascii=False, indent=1) + "\n"

    def as_markdown(self) -> str:
        """Tables for people, the article's row first."""
        parts = (self._row(), self.judged_tables, self._stages(), self._figures(), self._lists())
        return "\n\n".join(filter(None, parts)) + "\n"

    def _row(self) -> str:
        video, cards = self.video, [peak for peak in self.peaks if peak.device != "cpu"]
        most = max((peak.used for peak in cards or self.peaks), default=None)
        head = ("clips", "size", "frames/clip", "video", "time", "peak/card" if cards else "peak RAM", "first frame")
        row = (
            video.clips,
            f"{video.width}x{video.height}",
            video.infer_frames,
            seconds_text(video.seconds),
            seconds_text(self.times.seconds),
            "-" if most is None else size_text(most),
            "-" if self.times.first_block is None else seconds_text(self.times.first_block),
        )
        ended = (
            "" if self.ended == FINISHED else f"\n\n**{self.ended}**: {video.frames} of {video.wanted_frames} frames"
        )
        return f"**{video.file}**{ended}\n\n{markdown_table(head, [row])}"

    def _stages(self) -> str:
        waits = self.times.waits()
        rows = [
            (stage, seconds_text(worked), *_waited(waits.get(stage, {}))) for stage, worked in self.times.work().items()
        ]
        return f"{self.times.sentence()}\n\n{markdown_table(('stage', 'at work', 'waited for'), rows)}"

    def _figures(self) -> str:
        times, each = self.times, self.sampled.each
        rows: list[Row] = [("blocks", f"{times.written}, of them {times.replayed} from the disk")]
        if each is not None:
            rows.append(("block, median", seconds_text(each.median) + self._beside("block_seconds")))
            rows.append(("block, 95 % within", seconds_text(each.p95)))
            rows.append(("block, variation", f"{each.variation:.0%}"))
        if self.first_block is not None:
            rows.append(("first block", seconds_text(self.first_block) + self._beside("first_block_seconds")))
        rows.append(("preparing the decoder", seconds_text(times.preparing)))
        if self.realtime is not None:
            rows.append(("real time", f"{self.realtime:.2f}x"))
        rows += [(f"peak {_place(peak)}", f"{size_text(peak.used)} of {gib(peak.total)}") for peak in self.peaks]
        rows += [(name, value) for part in (self.settings, self.versions) for name, value in _flat(part)]
        return markdown_table(("", ""), rows)

    def _beside(self, name: str) -> str:
        """What was predicted of a figure."""
        known = self.predicted.get(name)
        return "" if known is None else f" (predicted {seconds_text(known.low)} to {seconds_text(known.high)})"

    def _lists(self) -> str:
        return "\n".join(f"- {text}" for text in (*self.warnings, *self.unknown))


def markdown_table(head: Sequence[str], rows: Iterable[Row]) -> str:
    lines = [_line(head), _line(["---"] * len(head)), *map(_line, rows)]
    return "\n".join(lines)


def _line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _waited(waits: Mapping[str, float]) -> tuple[str]:
    return (", ".join(f"{other} {seconds_text(seconds)}" for other, seconds in waits.items()) or "-",)


def _place(peak: Peak) -> str:
    return "RAM" if peak.device == "cpu" else f"{peak.device} ({peak.name})"


def _flat(values: Mapping[str, object], before: str = "") -> Iterable[tuple[str, str]]:
    """Of nested settings, "group name" and value."""
    for name, value in values.items():
        label = f"{before}{name}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{label} ")
        elif isinstance(value, (list, tuple)):
            yield label, "; ".join(map(str, value)) or "-"
        elif value not in (None, ""):
            yield label, str(value)


def _rounded(value: Any) -> Any:
    """Floats with few digits, for people who read the file; what JSON has no word for is null."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _rounded(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(part) for part in value]
    return value if isinstance(value, (str, int, type(None))) else str(value)
