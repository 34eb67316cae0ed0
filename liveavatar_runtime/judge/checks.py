"""The table of checks: what is called a fault, from which value on, and what to do then.

The bounds are those that `python -m benchmarks.judge` found on the videos that the judge was made with
(benchmarks/results/judge.md); others were used to test it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from .measures import ClipMeasures

AGAIN = "Make the clip again with another seed."
TRUSTED = 0.65
"""Of the usual correlation, from which on a lag is one; below, the mouth follows nothing."""
CLEARER = 0.06
"""By how much the correlation at a lag must exceed that without one."""
WEAKEST = 0.3
"""Correlation below which a whole video's mouth does not follow the voice."""


@dataclass(frozen=True)
class Check:
    """A row. `value` of a clip's measures, None where it says nothing; a fault below `low` or above `high`. `text`: how
    the value is written; `fault`: what a report calls it; `advice`: what to do."""

    name: str
    value: Callable[[ClipMeasures], float | None]
    fault: str
    advice: str
    low: float | None = None
    high: float | None = None
    text: str = "{:.2f}"

    def is_fault(self, measures: ClipMeasures) -> bool:
        value = self.value(measures)
        if value is None:
            return False
        return (self.low is not None and value < self.low) or (self.high is not None and value > self.high)

    def shown(self, measures: ClipMeasures) -> str:
        value = self.value(measures)
        return "-" if value is None else self.text.format(value)

    def severity(self, measures: ClipMeasures) -> float | None:
        """0 at the best, 1 at the bound, more beyond it; of values that are best at 0 or 1."""
        value = self.value(measures)
        if value is None:
            return None
        best = 1.0 if self.low is not None and self.low > 0 else 0.0
        bound = self.high if self.high is not None and (self.low is None or value >= best) else self.low
        assert bound is not None
        return max(0.0, (value - best) / (bound - best))

    @property
    def bounds(self) -> str:
        """How the table of checks writes them."""
        low = "" if self.low is None else f"below {self.low:g}"
        high = "" if self.high is None else f"above {self.high:g}"
        return " or ".join(filter(None, (low, high)))


def _follows(measures: ClipMeasures) -> float | None:
    if measures.sync is None or measures.usual_sync is None:
        return None
    return measures.sync / max(measures.usual_sync, WEAKEST)


def _lag(measures: ClipMeasures) -> float | None:
    follows = _follows(measures)
    if follows is None or follows < TRUSTED or measures.sync is None or measures.in_time is None:
        return None
    return measures.lag if measures.sync - measures.in_time >= CLEARER else 0.0


CHECKS = (
    Check(
        name="mouth and voice",
        value=_follows,
        fault="the mouth does not follow the voice",
        advice=AGAIN,
        low=0.75,
    ),
    Check(
        name="lag of the mouth",
        value=_lag,
        fault="mouth and voice are out of time",
        advice="Check that the sound is the one that the video was made with, from its start, and the frame rate.",
        low=-1.25,
        high=1.25,
        text="{:+.1f}",
    ),
    Check(
        name="movement of the mouth",
        value=lambda found: found.moves,
        fault="the mouth stands still",
        advice=AGAIN,
        low=0.3,
    ),
    Check(
        name="mouth in silence",
        value=lambda found: found.silent,
        fault="the mouth is open while nobody speaks",
        advice="Take noise out of the voice, or make the clip again with another seed.",
        high=0.6,
    ),
    Check(
        name="person",
        value=lambda found: found.likeness,
        fault="the person looks different from before",
        advice="Make the clip again, or set sink_policy to reference.",
        low=0.85,
    ),
    Check(
        name="person and picture",
        value=lambda found: found.picture,
        fault="the person looks different from the picture",
        advice="Use a picture of one face that looks at the camera, or set sink_policy to reference.",
        high=42.0,
        text="{:.0f}",
    ),
    Check(
        name="colour",
        value=lambda found: found.colour,
        fault="the colours have changed",
        advice="Make the video again from this clip on, or set sink_policy to reference.",
        high=4.7,
        text="{:.1f}",
    ),
    Check(
        name="colour at once",
        value=lambda found: found.colour_step,
        fault="the colours change at once",
        advice=AGAIN,
        high=3.8,
        text="{:.1f}",
    ),
    Check(
        name="sharpness",
        value=lambda found: found.sharpness,
        fault="the picture is less or more sharp",
        advice="Make the video again from this clip on, or set sink_policy to reference.",
        low=0.75,
        high=1.4,
    ),
    Check(
        name="repeated frames",
        value=lambda found: found.still,
        fault="frames are repeated",
        advice=AGAIN,
        high=9.0,
        text="{:.0f}",
    ),
    Check(
        name="seam",
        value=lambda found: found.seam,
        fault="the picture jumps at a border",
        advice="Make all clips from it on again, not it alone.",
        high=9.0,
    ),
    Check(
        name="jump",
        value=lambda found: found.jump,
        fault="the picture jumps",
        advice=AGAIN,
        high=4.5,
    ),
)
"""In the order of the report."""
