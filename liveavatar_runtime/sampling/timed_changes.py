"""Changes at times, put at the blocks of a plan where they begin."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction

import torch
from torch import Tensor

from ..duration import FRAMES_PER_BLOCK, block_start, format_time, nearest_block
from .plan import ClipPlan
from .script import Change, Script


@dataclass(frozen=True, eq=False, kw_only=True)
class Directions:
    """What can be directed; None: as before. text: an encoded prompt [tokens, width]; picture [H, W, C] 0..1; seed,
    motion: as in `Change`."""

    text: Tensor | None = None
    picture: Tensor | None = None
    seed: int | None = None
    motion: float | None = None

    def __bool__(self) -> bool:
        return bool(_names(self))


WORDS = {"text": "another prompt", "picture": "another picture", "seed": "another seed", "motion": "another strength"}
"""What is new, for users."""
REPLACED = {"text": "the prompt of positive", "picture": "the picture of image", "seed": "the plan's seed"}
REPLACED |= {"motion": "motion_strength of DiT Sampler"}


@dataclass(frozen=True, eq=False)
class TimedChange:
    """at: seconds of the whole video. name: what it is called in messages."""

    at: Fraction
    name: str
    new: Directions


@dataclass(frozen=True, eq=False)
class PlacedChanges:
    """The plan with its script and the seed that it begins with; the text [tokens, width] and the picture [H, W, C] of
    the beginning; what replaces them, by block, as `Conditions` has it; and what users are to read."""

    plan: ClipPlan
    text: Tensor
    picture: Tensor
    texts: dict[int, Tensor] = field(default_factory=dict)
    pictures: dict[int, Tensor] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()


def place_changes(plan: ClipPlan, text: Tensor, picture: Tensor, changes: Iterable[TimedChange]) -> PlacedChanges:
    """Each change at the block whose beginning is nearest.

    A change at block 0 replaces what the video begins with: `text`, `picture`, the plan's seed, its motion strength.
    Of two that fall on one block the later counts. One behind the plan's end, and one that changes nothing, is left
    out. `plan` has its final number of clips. No changes: all stays as it is.
    """
    changes = sorted(changes, key=lambda change: change.at)
    if not changes:
        return PlacedChanges(plan, text, picture)
    now = Directions(text=text, picture=picture, seed=plan.seed, motion=plan.script.motion)
    begun, told, news = now, Told(), {}
    for block, at_block in _by_block(plan, changes, told).items():
        new = _news(now, _merged(at_block, told))
        now = _and(now, new)
        told.placed(plan, block, at_block, new)
        if block == 0:
            begun = now
            told.replaced(at_block, new)
        elif new:
            news[block] = new
    return PlacedChanges(
        _with_script(plan, begun, news),
        text if begun.text is None else begun.text,
        picture if begun.picture is None else begun.picture,
        {block: new.text for block, new in news.items() if new.text is not None},
        {block: new.picture for block, new in news.items() if new.picture is not None},
        tuple(told.warnings),
        tuple(told.facts),
    )


def _with_script(plan: ClipPlan, begun: Directions, news: Mapping[int, Directions]) -> ClipPlan:
    changes = tuple(
        Change(
            block=block,
            text=new.text is not None,
            picture=new.picture is not None,
            seed=new.seed,
            motion=new.motion,
        )
        for block, new in news.items()
    )
    seed = plan.seed if begun.seed is None else begun.seed
    motion = plan.script.motion if begun.motion is None else begun.motion
    return replace(plan, seed=seed, script=Script(changes, motion))


def _by_block(plan: ClipPlan, changes: Sequence[TimedChange], told: "Told") -> dict[int, list[TimedChange]]:
    """Changes of one block together, by ascending block, without those behind the end of the video."""
    blocks: dict[int, list[TimedChange]] = {}
    for change in changes:
        block = nearest_block(change.at, plan.fps)
        if block * FRAMES_PER_BLOCK < plan.frames:
            blocks.setdefault(block, []).append(change)
        else:
            told.late(plan, change)
    return blocks


def _merged(changes: Sequence[TimedChange], told: "Told") -> Directions:
    """What several changes at one block direct together."""
    merged, given_by = Directions(), {}
    for change in changes:
        for name in _names(change.new):
            if name in given_by and not _same(getattr(merged, name), getattr(change.new, name)):
                told.covered(given_by[name], change, WORDS[name])
            given_by[name] = change
        merged = _and(merged, change.new)
    return merged


def _names(directions: Directions) -> list[str]:
    """Of what is directed."""
    return [part.name for part in fields(directions) if getattr(directions, part.name) is not None]


def _and(before: Directions, new: Directions) -> Directions:
    return replace(before, **{name: getattr(new, name) for name in _names(new)})


def _news(now: Directions, given: Directions) -> Directions:
    """What of `given` is not in force already."""
    return replace(given, **{name: None for name in _names(given) if _same(getattr(now, name), getattr(given, name))})


def _same(first: object, second: object) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return same_values(first, second)
    return first == second


def same_values(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors on the CPU, perhaps of other formats and sizes, are equal."""
    return first is second or (first.shape == second.shape and torch.equal(first.float(), second.float()))


class Told:
    """Sentences about changes for the user."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.facts: list[str] = []

    def placed(self, plan: ClipPlan, block: int, changes: Sequence[TimedChange], new: Directions) -> None:
        begins, clip = format_time(block_start(block, plan.fps)), plan.clip_of(block) + 1
        news = ", ".join(WORDS[name] for name in _names(new)) or "nothing new"
        for change in changes:
            self.facts.append(f"Script {format_time(change.at)} -> {begins}, clip {clip} ({news})")

    def replaced(self, changes: Sequence[TimedChange], new: Directions) -> None:
        for name in _names(new):
            by = next(change.name for change in reversed(changes) if name in _names(change.new))
            self.facts.append(f"{by} replaces {REPLACED[name]}")

    def late(self, plan: ClipPlan, change: TimedChange) -> None:
        last = format_time(block_start((plan.frames - 1) // FRAMES_PER_BLOCK, plan.fps))
        self.warnings.append(
            f"{change.name} ({format_time(change.at)}) is behind the video's end and has no effect; the last time at "
            f"which something can begin is {last}."
        )

    def covered(self, earlier: TimedChange, later: TimedChange, what: str) -> None:
        times = format_time(earlier.at), format_time(later.at)
        self.warnings.append(
            f"{earlier.name} ({times[0]}) and {later.name} ({times[1]}) begin at the same block, and the later one "
            f"counts: {what}. A block is 12 frames; put them further apart."
        )
