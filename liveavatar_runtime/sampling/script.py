"""Script: what changes in the course of a video, and from which block on."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ..errors import InputError

MIN_MOTION, MAX_MOTION = 0.0, 3.0
"""Bounds of motion strength: 1 is what the model was trained with."""
LOWEST_STEADY, HIGHEST_STEADY = 0.5, 2.0
"""Of a whole video: where the demo's mouth and head follow the strength, and lip sync, likeness and the shut mouth in
silence hold (benchmarks/results/motion_strength.md)."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is new from a block on; what is not named goes on as before.

    `block`: counted over the whole video, 1 or more: what holds from the beginning is no change. `text`, `picture`:
    whether another prompt or reference picture begins (`Conditions.texts`, `.pictures` hold them by block). `seed`: the
    noise of clip c comes from a generator seeded `seed + c` from now on. `motion`: motion strength, the factor of what
    the voice adds to the hidden states.
    """

    block: int
    text: bool = False
    picture: bool = False
    seed: int | None = None
    motion: float | None = None

    def __post_init__(self) -> None:
        if self.block < 1:
            raise InputError(f"a change begins at block {self.block}; what holds from the beginning is no change")
        if self.motion is not None and not MIN_MOTION <= self.motion <= MAX_MOTION:
            raise InputError(
                f"motion strength is {self.motion}; allowed are {MIN_MOTION:g} to {MAX_MOTION:g}, 1 changes nothing"
            )


@dataclass(frozen=True)
class Script:
    """Changes by ascending block, at most one at each. No change: one prompt, picture and seed for the whole video.

    `motion`: motion strength from the beginning.
    """

    changes: tuple[Change, ...] = ()
    motion: float = 1.0

    def __post_init__(self) -> None:
        blocks = [change.block for change in self.changes]
        if blocks != sorted(set(blocks)):
            raise InputError(f"changes begin at the blocks {blocks}; they must ascend, with one change a block")

    @property
    def changes_text(self) -> bool:
        """Whether there is more than one prompt."""
        return bool(self._texts)

    def with_seed(self, block: int, seed: int) -> "Script":
        """With another seed from a block on, until the next one."""
        others = [change for change in self.changes if change.block != block]
        same = next((change for change in self.changes if change.block == block), Change(block=block))
        return replace(self, changes=tuple(sorted([*others, replace(same, seed=seed)], key=lambda c: c.block)))

    def text_since(self, block: int) -> int:
        """The block from which on the prompt of a block has been in force; 0: from the beginning."""
        last = _last(self._texts, block)
        return 0 if last is None else last.block

    def picture_since(self, block: int) -> int:
        """The same for the reference picture."""
        last = _last(self._pictures, block)
        return 0 if last is None else last.block

    def seed_at(self, block: int, seed: int) -> int:
        """The seed of a block, in a video that begins with `seed`."""
        last = _last(self._seeds, block)
        return seed if last is None or last.seed is None else last.seed

    def motion_at(self, block: int) -> float:
        """The motion strength of a block."""
        last = _last(self._motions, block)
        return self.motion if last is None or last.motion is None else last.motion

    @cached_property
    def _texts(self) -> list[Change]:
        return self._that(lambda change: change.text)

    @cached_property
    def _pictures(self) -> list[Change]:
        return self._that(lambda change: change.picture)

    @cached_property
    def _seeds(self) -> list[Change]:
        return self._that(lambda change: change.seed is not None)

    @cached_property
    def _motions(self) -> list[Change]:
        return self._that(lambda change: change.motion is not None)

    def _that(self, wanted: Callable[[Change], bool]) -> list[Change]:
        return [change for change in self.changes if wanted(change)]


def _last(changes: Sequence[Change], block: int) -> Change | None:
    """The last of ascending changes at or before a block."""
    number = bisect_right(changes, block, key=lambda change: change.block)
    return changes[number - 1] if number else None


NO_SCRIPT = Script()
