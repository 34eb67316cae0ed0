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
    """`num_clip`: 0 for as many as the voice needs. `size`: a lying one of `size_presets.PRESETS`; a video that the
    widgets make square or upright stays so, with the size in the same place of that list."""

    num_clip: int
    size: str = "688x368"
    steps: int = 4
    infer_frames: int = 48
    fps: float = 16.0

    @classmethod
    def lasting(cls, seconds: int, size: str = "688x368") -> "PlanPreset":
        """For delivery: the fewest clips that cover so many seconds."""
        return cls(num_clip=clips_for_duration(Fraction(seconds), cls.infer_frames, Fraction(cls.fps)), size=size)

    def widgets(self, shape: int = 0) -> dict[str, Value]:
        """What it decides, by the names of Clip Scheduler's inputs. shape: as `size_presets.shape_of` gives it."""
        return {**self._but_size(), "size": size_presets.shapes_of(self.size)[shape]}

    def for_page(self) -> dict[str, Value | tuple[str, ...]]:
        """The same with the sizes of all shapes, lying, square and upright."""
        return {**self._but_size(), "size": size_presets.shapes_of(self.size)}

    def _but_size(self) -> dict[str, Value]:
        return {"num_clip": self.num_clip, "infer_frames": self.infer_frames, "fps": self.fps, "steps": self.steps}


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
    return {**widgets, **PRESETS[preset].widgets(_shape(widgets))}


def _shape(widgets: Mapping[str, Value]) -> int:
    """Of the video that the widgets name; lying where they name none."""
    size = size_presets.check_size(str(widgets.get("size", CUSTOM)))
    width, height = size_presets.PRESETS.get(size, (widgets.get("width", 1), widgets.get("height", 0)))
    if isinstance(width, str) or isinstance(height, str):
        return 0
    return size_presets.shape_of(width, height)


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
