"""What the judge says of a video: which clips look wrong, why, and what to do, as tables and as takes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from statistics import median

from ..duration import format_hms
from ..run_report import markdown_table
from ..sampling.takes import Take, print_takes
from .checks import CHECKS, Check
from .judge import Judge, MeasuredClip

MOST_ROWS = 200
"""Clips of a table; of a longer video only those that look wrong are in it."""
MOST_TOLD = 50
NOTHING_HEARD = "Nobody is heard, so mouth and voice were not compared"
NO_MOUTH = "Nothing moves with the voice, so mouth and voice could not be compared"


@dataclass(frozen=True)
class Judgement:
    """clips: in their order; fps, clip_frames: of the video; whole_frame: why the whole frame was looked at instead of
    a face, or ""; heard: whether anybody speaks."""

    clips: tuple[MeasuredClip, ...]
    fps: Fraction
    clip_frames: int
    whole_frame: str = ""
    heard: bool = True

    @classmethod
    def of(cls, judge: Judge) -> "Judgement":
        """Of a judge that gets no more frames."""
        judged, clips = judge.judged, tuple(judge.finish())
        return cls(clips, judged.fps, judged.clip_frames, judge.regions.reason, judge.loudness.loud > 0)

    @cached_property
    def faults(self) -> dict[int, tuple[Check, ...]]:
        """Of the clips that look wrong, counted from 0, what is wrong."""
        found = ((clip.clip, tuple(check for check in CHECKS if check.is_fault(clip.measures))) for clip in self.clips)
        return {clip: checks for clip, checks in found if checks}

    @property
    def headline(self) -> str:
        if not self.faults:
            return f"Clip judge: no fault was found, clips looked at: {len(self.clips)}"
        return (
            f"Clip judge: {len(self.faults)} of {len(self.clips)} clips look wrong: {numbers_text(list(self.faults))}"
        )

    def notes(self) -> list[str]:
        """How mouth and voice go together, and what could not be looked at."""
        compared = any(clip.measures.moves is not None or clip.measures.sync is not None for clip in self.clips)
        voice = NOTHING_HEARD if not self.heard else self._usual_mouth() if compared else NO_MOUTH
        whole = f"The whole frame was looked at instead of the face: {self.whole_frame}" if self.whole_frame else ""
        return [note for note in (voice, whole) if note]

    def _usual_mouth(self) -> str:
        """How mouth and voice go together in the whole video."""
        clips = [clip.measures for clip in self.clips]
        syncs = [found.sync for found in clips if found.sync is not None]
        lags = [found.lag for found in clips if found.lag is not None]
        if not syncs:
            return ""
        return f"Mouth and voice: usual correlation {median(syncs):.2f}, usual lag {median(lags):+.1f} frames"

    def told(self) -> list[str]:
        """A line for each kind of fault: what, in which clips, and what to do."""
        return [f"{check.fault}: {clips}. {check.advice}" for check, clips in self._kinds()]

    def _kinds(self) -> list[tuple[Check, str]]:
        """The checks that found something, with the numbers of the clips."""
        found = ((check, [clip for clip, checks in self.faults.items() if check in checks]) for check in CHECKS)
        return [(check, numbers_text(clips)) for check, clips in found if clips]

    def reasons(self, clip: int) -> str:
        """What is wrong with a clip."""
        return ", ".join(check.fault for check in self.faults.get(clip, ()))

    def time(self, clip: int) -> str:
        """Where a clip begins in the whole video."""
        return format_hms(Fraction(clip * self.clip_frames) / self.fps)

    def as_markdown(self) -> str:
        """The tables: what to do, all values, and the bounds."""
        parts = [f"**{self.headline}**", *self.notes(), self._advice(), self.values(), self._bounds()]
        return "\n\n".join(part for part in parts if part) + "\n"

    def section(self) -> str:
        """For the report of a run: the clips that look wrong, and what is usual."""
        rows = [*self._fault_rows(MOST_TOLD), ("usual", "", *self._usual())]
        head = ("clip", "looks wrong because", *(check.name for check in CHECKS))
        return "\n\n".join([f"**{self.headline}**", *self.notes(), markdown_table(head, rows)])

    def as_values(self) -> dict[str, object]:
        """For the JSON of a report; clips count from 1."""
        return {
            "clips": len(self.clips),
            "flagged": [
                {"clip": clip + 1, "time": self.time(clip), "faults": [check.name for check in checks]}
                for clip, checks in self.faults.items()
            ],
            "usual": {check.name: usual for check in CHECKS if (usual := self._median(check)) is not None},
            "notes": self.notes(),
        }

    def values(self) -> str:
        """All values by clip; of a long video of the clips that look wrong."""
        head = ("clip", "time", *(check.name for check in CHECKS), "looks wrong because")
        shown = self.clips if len(self.clips) <= MOST_ROWS else [c for c in self.clips if c.clip in self.faults]
        left = len(self.clips) - len(shown)
        rows = [
            (
                clip.clip + 1,
                self.time(clip.clip),
                *(_marked(check, clip) for check in CHECKS),
                self.reasons(clip.clip) or "-",
            )
            for clip in shown[:MOST_ROWS]
        ]
        beside = f"\n\n{left} clips without a fault are not in this table." if left else ""
        return markdown_table(head, [*rows, ("usual", "", *self._usual(), "")]) + beside

    def _fault_rows(self, most: int) -> list[tuple[object, ...]]:
        clips = {clip.clip: clip for clip in self.clips}
        return [
            (f"{clip + 1} ({self.time(clip)})", self.reasons(clip), *(_marked(check, clips[clip]) for check in CHECKS))
            for clip in list(self.faults)[:most]
        ]

    def _advice(self) -> str:
        """What to do, once for each kind of fault."""
        rows = [(check.fault, clips, check.advice) for check, clips in self._kinds()]
        return markdown_table(("what", "clips", "what to do"), rows) if rows else ""

    def _bounds(self) -> str:
        rows = [(check.name, check.bounds, check.fault) for check in CHECKS]
        return markdown_table(("value", "a fault is", "which means"), rows)

    def _usual(self) -> list[str]:
        values = [self._median(check) for check in CHECKS]
        return ["-" if value is None else check.text.format(value) for check, value in zip(CHECKS, values, strict=True)]

    def _median(self, check: Check) -> float | None:
        values = [value for clip in self.clips if (value := check.value(clip.measures)) is not None]
        return median(values) if values else None


def _marked(check: Check, clip: MeasuredClip) -> str:
    shown = check.shown(clip.measures)
    return f"**{shown}**" if check.is_fault(clip.measures) else shown


def numbers_text(clips: Sequence[int]) -> str:
    """Clips counted from 0 -> "3, 7-9", as people count them."""
    runs: list[list[int]] = []
    for clip in sorted(clips):
        if runs and clip == runs[-1][1] + 1:
            runs[-1][1] = clip
        else:
            runs.append([clip, clip])
    return ", ".join(f"{a + 1}" if a == b else f"{a + 1}-{b + 1}" for a, b in runs)


@dataclass(frozen=True)
class Again:
    """How clips are made again: `onwards`: all from the first one on, else each of them alone; `takes`: those that the
    video has already, which stay as far as they can."""

    onwards: bool = False
    takes: tuple[Take, ...] = field(default=())

    def text(self, clips: Sequence[int]) -> str:
        """What Clip Scheduler's `takes` takes, "" when no clip is to be made again."""
        if not clips:
            return ""
        wanted = [min(clips)] if self.onwards else sorted(clips)
        new = [Take(clip, self._next_number(clip), not self.onwards) for clip in wanted]
        kept = [take for take in self.takes if not self._is_replaced(take, wanted)]
        return print_takes(sorted([*kept, *new], key=lambda take: (take.clip, take.alone)))

    def _is_replaced(self, take: Take, wanted: Sequence[int]) -> bool:
        if self.onwards:
            return take.clip >= wanted[0]
        return take.alone and take.clip in wanted

    def _next_number(self, clip: int) -> int:
        """A number that no take of the clip has had."""
        return 1 + max((take.number for take in self.takes if take.clip == clip), default=0)
