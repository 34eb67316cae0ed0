"""What runs that are over tell the planner: how long their blocks took, on which cards, with what settings."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from ..dit.placement import Placement
from ..duration import FRAMES_PER_BLOCK
from ..errors import InputError, replaced
from ..reading import parse_json
from .ranges import Range

if TYPE_CHECKING:
    from .workload import Workload

FORMAT = 1
"""Of the JSON text; a record of another one is none."""
LEAST_SPREAD = 0.03
"""Two runs of one video differ by so much, however evenly each of them goes."""
MOST_CARDS, LONGEST_NAME = 64, 200
ENOUGH_BLOCKS = 8
"""From this number on the newest record counts, whatever an older one counted."""


@dataclass(frozen=True, kw_only=True)
class SpeedKey:
    """What decides how fast a run is. Records are only comparable where all of it is equal.

    `cards`: short names (`calibration.short_name`), one for each device that worked, in order; `dtype`: as PyTorch
    names it without "torch."; `weight_bytes`: of a weight as it is kept, to a tenth; `kv_cache`, `kv_dtype`, `batched`:
    as `Placement` has them.
    """

    cards: tuple[str, ...]
    executor: str
    width: int
    height: int
    steps: int
    window_blocks: int
    dim: int
    layers: int
    weight_bytes: float
    dtype: str
    kv_cache: str
    kv_dtype: str
    batched: bool

    @classmethod
    def of(cls, work: "Workload", cards: Sequence[str], executor: str, placement: Placement) -> "SpeedKey":
        plan, config = work.plan, work.config
        return cls(
            cards=tuple(cards),
            executor=executor,
            width=plan.width,
            height=plan.height,
            steps=plan.steps,
            window_blocks=plan.window_blocks,
            dim=config.dim,
            layers=config.num_layers,
            weight_bytes=round(work.bytes_each, 1),
            dtype=str(work.dtype).removeprefix("torch."),
            kv_cache=placement.kv_cache,
            kv_dtype=placement.kv_dtype,
            batched=placement.batched,
        )

    def is_kin(self, other: "SpeedKey") -> bool:
        """Whether only the video, and with it the place of the caches, differs."""
        return self._without_video == other._without_video

    @property
    def _without_video(self) -> tuple[object, ...]:
        return (self.cards, self.executor, self.dim, self.layers, self.weight_bytes, self.dtype)


@dataclass(frozen=True, kw_only=True)
class ObservedSpeed:
    """One run. `block_seconds`: the median from one finished block to the next, sampled and decoded; `spread`: half of
    what lies between the 10th and the 90th percentile, relative to it; `first_block_seconds`: from the start of
    sampling until the first block was decoded; `blocks`: those that counted; `date`: when it ended, as "2026-11-28"."""

    key: SpeedKey
    block_seconds: float
    first_block_seconds: float
    spread: float
    blocks: int
    date: str

    def __post_init__(self) -> None:
        wrong = [name for name in ("block_seconds", "first_block_seconds") if not 0 < getattr(self, name) < math.inf]
        wrong += ["spread"] * (not 0 <= self.spread < math.inf) + ["blocks"] * (self.blocks < 1)
        if wrong:
            given = ", ".join(f"{name} {getattr(self, name)!r}" for name in wrong)
            raise InputError(f"an observed speed has {given}; seconds and blocks must be above 0")

    @classmethod
    def of_blocks(cls, key: SpeedKey, seconds: Sequence[float], first: float, date: str) -> "ObservedSpeed":
        """From what each block after the first took. Raises InputError where there is none."""
        if not seconds:
            raise InputError("no block after the first was timed; an observed speed needs one")
        ordered = sorted(seconds)
        median, low, high = (_quantile(ordered, share) for share in (0.5, 0.1, 0.9))
        spread = (high - low) / 2 / median if median > 0 else math.inf
        return cls(
            key=key, block_seconds=median, first_block_seconds=first, spread=spread, blocks=len(seconds), date=date
        )

    @property
    def fps(self) -> Range:
        """Frames a second."""
        return Range.around(FRAMES_PER_BLOCK / self.block_seconds, max(self.spread, LEAST_SPREAD))

    @property
    def first_block(self) -> Range:
        """Seconds."""
        return Range.around(self.first_block_seconds, max(self.spread, LEAST_SPREAD))

    def replaces(self, other: "ObservedSpeed | None") -> bool:
        """Whether this newer record of the same key tells more."""
        return other is None or self.blocks >= min(ENOUGH_BLOCKS, other.blocks)

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "ObservedSpeed":
        """Raises InputError for anything but what `to_json` writes."""
        with replaced(ValueError, lambda error: InputError(f"it is no JSON: {error}")):
            values = parse_json(text)
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
            raise InputError(f"it is no observed speed of format {FORMAT}")
        key = values.pop("key", None)
        if not isinstance(key, dict):
            raise InputError("its key is no object")
        return cls(key=SpeedKey(**_checked(SpeedKey, key)), **_checked(cls, values))


@dataclass(frozen=True)
class ObservedSpeeds:
    """Records of this machine's runs, one a key."""

    records: tuple[ObservedSpeed, ...] = ()

    @classmethod
    def of(cls, records: Iterable[ObservedSpeed]) -> "ObservedSpeeds":
        """Of records in the order of their age; those of one key that tell more stay."""
        found: dict[SpeedKey, ObservedSpeed] = {}
        for record in records:
            if record.replaces(found.get(record.key)):
                found[record.key] = record
        return cls(tuple(found.values()))

    def find(self, key: SpeedKey) -> ObservedSpeed | None:
        return next((record for record in self.records if record.key == key), None)

    def kin(self, key: SpeedKey) -> list[ObservedSpeed]:
        """Of other videos by the same means; those nearest in pixels and steps first."""

        def distance(record: ObservedSpeed) -> float:
            other = record.key
            pixels = other.width * other.height / (key.width * key.height)
            return abs(math.log(pixels)) + abs(math.log(other.steps / key.steps))

        return sorted((r for r in self.records if r.key != key and r.key.is_kin(key)), key=distance)


NONE_OBSERVED = ObservedSpeeds()


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def _checked(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a record, each of its type. Raises InputError."""
    wanted = {field.name: field.type for field in fields(kind) if field.name != "key"}
    if values.keys() != wanted.keys():
        raise InputError(
            f"its fields are {', '.join(sorted(values)) or 'none'}; wanted are {', '.join(sorted(wanted))}"
        )
    checked = {name: _of_type(name, values[name], wanted[name]) for name in wanted}
    if any(isinstance(value, int) and not isinstance(value, bool) and value < 1 for value in checked.values()):
        raise InputError("one of its counts is below 1")
    return checked


def _of_type(name: str, value: Any, kind: Any) -> Any:
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if kind is str and isinstance(value, str) and len(value) <= LONGEST_NAME:
        return value
    if kind == tuple[str, ...] and isinstance(value, list) and 0 < len(value) <= MOST_CARDS:
        return tuple(_of_type(name, card, str) for card in value)
    raise InputError(f"{name} is {value!r}")
