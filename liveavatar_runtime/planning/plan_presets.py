"""Plans by name: what a preset of Clip Scheduler decides instead of its widgets.

This table is the only one: the node takes it, the page gets it with the node's description, help pages and tests are
compared with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from ..duration import clips_for_duration
from ..errors import InputError
from ..sampling.plan_request import AS_MANY_AS_THE_VOICE_NEEDS
from . import size_presets

CUSTOM = size_presets.CUSTOM
"""No preset: the widgets decide."""
Value = int | float | str


@dataclass(frozen=True, kw_only=True)
class PlanPreset:
    """`num_clip`: 0 for as many as the voice needs. `size`: a name of `size_presets.PRESETS`, whose width and height
    are the area of the video; the picture's aspect stays as `keep_aspect` has it."""

    num_clip: int
    size: str = "688x368"
    steps: int = 4
    infer_frames: int = 48
    fps: float = 16.0

    @classmethod
    def lasting(cls, seconds: int, size: str = "688x368") -> "PlanPreset":
        """For delivery: the fewest clips that cover so many seconds."""
        return cls(num_clip=clips_for_duration(Fraction(seconds), cls.infer_frames, Fraction(cls.fps)), size=size)

    @property
    def widgets(self) -> dict[str, Value]:
        """What it decides, by the names of Clip Scheduler's inputs."""
        width, height = size_presets.PRESETS[self.size]
        return {
            "num_clip": self.num_clip,
            "infer_frames": self.infer_frames,
            "fps": self.fps,
            "width": width,
            "height": height,
            "steps": self.steps,
            "size": size_presets.CUSTOM,
        }


PRESETS: dict[str, PlanPreset] = {
    "check": PlanPreset(num_clip=10, size="384x256", steps=3),
    "60 s": PlanPreset.lasting(60),
    "120 s": PlanPreset.lasting(120),
    "180 s delivery": PlanPreset.lasting(180, size="704x384"),
    "long form": PlanPreset(num_clip=AS_MANY_AS_THE_VOICE_NEEDS),
}
"""By the names that saved workflows have."""


def decided(preset: str, widgets: Mapping[str, Value]) -> dict[str, Value]:
    """The widgets' values with those that a preset decides in their place. Raises InputError for an unknown one."""
    if preset == CUSTOM:
        return dict(widgets)
    if preset not in PRESETS:
        raise InputError(f"preset is {preset!r}; allowed are {', '.join([CUSTOM, *PRESETS])}")
    return {**widgets, **PRESETS[preset].widgets}


def preset_note(preset: str, widgets: Mapping[str, Value]) -> str:
    """Which widgets a preset does not take as they are; empty where there are none."""
    changed = {name: value for name, value in decided(preset, widgets).items() if widgets[name] != value}
    if not changed:
        return ""
    differences = ", ".join(_instead(name, value, widgets[name]) for name, value in changed.items())
    return f"preset {preset}: {differences}"


def _instead(name: str, value: Value, given: Value) -> str:
    shown, other = (f"{number:g}" if isinstance(number, float) else number for number in (value, given))
    return f"{name} {shown} instead of {other}"
