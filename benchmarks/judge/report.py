"""What was found of the faults, as a table, as JSON and as a picture."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from liveavatar_runtime.judge.checks import CHECKS
from liveavatar_runtime.media.lettering import length_of, write
from liveavatar_runtime.run_report import markdown_table

from .faults import FAULTS, Fault
from .trial import CLEAN, Trial

FOUND_GOAL, ALARM_GOAL = 0.95, 0.01
GOOD, BAD, INK, QUIET, PAPER, EMPTY = "#3e8e69", "#c82c2c", "#1c2530", "#5b6875", "#ffffff", "#e6eaee"


def of(tried: Sequence[Trial], fault: Fault, size: int | None = None) -> list[Trial]:
    return [trial for trial in tried if trial.fault == fault.name and size in (None, trial.size)]


def share(trials: Sequence[Trial]) -> float:
    return sum(trial.is_found for trial in trials) / max(1, len(trials))


def alarms(tried: Sequence[Trial]) -> tuple[int, int]:
    """Flagged clips that no fault touched, and all clips that none touched."""
    return sum(len(trial.false_alarms) for trial in tried), sum(len(trial.untouched) for trial in tried)


def table(tried: Sequence[Trial]) -> str:
    """A row for each fault, and those of clips without one."""
    rows = []
    for fault in FAULTS:
        by_size = [
            f"{size}: {sum(t.is_found for t in some)}/{len(some)}"
            for size in fault.sizes
            if (some := of(tried, fault, size))
        ]
        every = of(tried, fault)
        met = "yes" if share(every) >= FOUND_GOAL else "**no**"
        checks = Counter(name for trial in every for clip in trial.found_in for name in trial.flagged.get(clip, ()))
        by = ", ".join(f"{name} {count}" for name, count in checks.most_common(4))
        rows.append((fault.name, f"{', '.join(by_size)} ({fault.unit})", f"{100 * share(every):.1f} %", met, by))
    lines = markdown_table(("fault", "found of, by size", "found", "goal met", "found by"), rows)
    return f"{lines}\n\n{alarm_table(tried)}"


def alarm_table(tried: Sequence[Trial]) -> str:
    rows = []
    kinds = (("videos without a fault", [t for t in tried if t.fault == CLEAN]), ("all videos", list(tried)))
    for name, some in kinds:
        wrong, clips = alarms(some)
        by = Counter(check for trial in some for clip in trial.false_alarms for check in trial.flagged[clip])
        why = ", ".join(f"{check} {count}" for check, count in by.most_common(4)) or "-"
        met = "yes" if wrong <= ALARM_GOAL * clips else "**no**"
        rows.append((name, f"{wrong} of {clips}", f"{100 * wrong / max(1, clips):.2f} %", met, why))
    return markdown_table(("clips without a fault", "flagged", "false alarms", "goal met", "by"), rows)


def ranges(tried: Sequence[Trial]) -> str:
    """Of each check, the values of clips that no fault touched, and its bounds."""
    rows = []
    for check in CHECKS:
        values = np.array(
            [value for t in tried for clip in t.untouched if (value := t.values[clip][check.name]) is not None]
        )
        if not len(values):
            continue
        low, high = np.quantile(values, [0.01, 0.99])
        rows.append((check.name, f"{low:.2f} to {high:.2f}", f"{values.min():.2f} to {values.max():.2f}", check.bounds))
    return markdown_table(("value", "98 of 100", "all", "a fault is"), rows)


def as_json(found: dict[str, list[Trial]]) -> dict[str, object]:
    """Counts; clips and faults as they were tried."""
    return {
        which: {
            "faults": {
                f"{fault.name} {size} {fault.unit}": {"found": sum(t.is_found for t in some), "of": len(some)}
                for fault in FAULTS
                for size in fault.sizes
                if (some := of(tried, fault, size))
            },
            "false_alarms": dict(zip(("flagged", "clips"), alarms(tried), strict=True)),
            "bounds": {check.name: [check.low, check.high] for check in CHECKS},
        }
        for which, tried in found.items()
    }


def drawn(tried: Sequence[Trial]) -> Image.Image:
    """A bar for each fault and size: how many were found; and one for false alarms."""
    bars = [
        (f"{fault.name}, {size} {fault.unit}", share(of(tried, fault, size)))
        for fault in FAULTS
        for size in fault.sizes
    ]
    left, width, row, top = 320, 700, 30, 80
    picture = Image.new("RGB", (left + width + 110, top + row * (len(bars) + 2) + 40), PAPER)
    pen = ImageDraw.Draw(picture)
    write(picture, (30, 24), "Faults found in videos that the judge was not made with", 26, INK)
    for number, (name, value) in enumerate(bars):
        y = top + number * row
        write(picture, (left - 14 - length_of(name, 18), y + 2), name, 18, INK)
        pen.rectangle((left, y, left + width, y + row - 8), fill=EMPTY)
        pen.rectangle((left, y, left + width * value, y + row - 8), fill=GOOD if value >= FOUND_GOAL else BAD)
        write(picture, (left + width + 12, y + 2), f"{100 * value:.0f} %", 18, INK)
    goal = left + width * FOUND_GOAL
    pen.line((goal, top - 8, goal, top + len(bars) * row), fill=INK, width=2)
    wrong, clips = alarms(tried)
    text = f"False alarms: {wrong} of {clips} clips that no fault touched ({100 * wrong / max(1, clips):.2f} %)"
    write(picture, (30, top + row * len(bars) + 24), text, 20, INK if wrong <= ALARM_GOAL * clips else BAD)
    write(picture, (goal - 60, top + row * len(bars) + 2), "goal 95 %", 16, QUIET)
    return picture
