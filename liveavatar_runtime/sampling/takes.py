"""Takes: clips of a video that are made again with other noise; the earlier ones stay and can be chosen again."""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    from .plan import ClipPlan

EXAMPLE = "'5-: 2' for take 2 of all clips from clip 5 on, '9: 1' for take 1 of clip 9 alone, several with commas"
_SPACE = " \t\r\f\v"
_GAP = f"[{_SPACE}]*"
_TAKE = re.compile(rf"{_GAP}([0-9]{{1,9}}){_GAP}(-?){_GAP}[:=]{_GAP}([0-9]{{1,9}}){_GAP}")


@dataclass(frozen=True)
class Take:
    """Take `number` of a clip, counted from 0, `alone` or of all clips from it on; 0 is the take without this one."""

    clip: int
    number: int
    alone: bool = False

    def __str__(self) -> str:
        return f"{self.clip + 1}{'' if self.alone else '-'}: {self.number}"

    def seed(self, seed: int) -> int:
        """The seed that is taken for one that would be in force, 63 bits: far from it, since clips count on from it."""
        digest = hashlib.sha256(f"{seed}/{self.clip}/{self.number}".encode()).digest()
        return int.from_bytes(digest[:8], "little") % 2**63


def parse_takes(text: str) -> tuple[Take, ...]:
    """`EXAMPLE` -> takes by ascending clip, without those of number 0. Raises InputError for anything else.

    A clip may be taken once from it on and once alone, which is of the former. `web/takes.js` reads the same.
    """
    found: list[Take] = []
    # Digits, colons and commas as Chinese keyboards give them are these.
    for part in re.split("[\n;,]", unicodedata.normalize("NFKC", text)):
        if not part.strip(_SPACE):
            continue
        match = _TAKE.fullmatch(part)
        if match is None or not int(match[1]):
            raise InputError(f"takes has {part.strip()!r}; write {EXAMPLE}. Clips count from 1.")
        found.append(Take(int(match[1]) - 1, int(match[3]), alone=not match[2]))
    places = [(take.clip, take.alone) for take in found]
    for clip, alone in places:
        if places.count((clip, alone)) > 1:
            raise InputError(
                f"takes names clip {clip + 1} twice; write it once with '-' and once without at most: the take from it "
                "on, and of that the clip alone"
            )
    return tuple(sorted((take for take in found if take.number), key=lambda take: (take.clip, take.alone)))


def print_takes(takes: Sequence[Take]) -> str:
    """What `parse_takes` reads."""
    return ", ".join(map(str, takes))


@dataclass(frozen=True)
class ResolvedTakes:
    """`plan`: without takes, its script with the seeds of those that go on; `alone`: the plan of each clip that is
    another take by itself, until its end; `used`: the takes; `beyond`: those of clips that the video does not have."""

    plan: "ClipPlan"
    alone: dict[int, "ClipPlan"]
    used: tuple[Take, ...] = ()
    beyond: tuple[Take, ...] = ()


def resolved(plan: "ClipPlan") -> ResolvedTakes:
    """What a plan's takes mean for its seeds."""
    takes = tuple(take for take in plan.takes if take.clip < plan.num_clip)
    beyond = tuple(take for take in plan.takes if take.clip >= plan.num_clip)
    whole = replace(plan, takes=())
    for take in takes:
        if not take.alone:
            whole = _with_take(whole, take)
    alone = {take.clip: _with_take(whole, take).until(take.clip + 1) for take in takes if take.alone}
    return ResolvedTakes(whole, alone, takes, beyond)


def _with_take(plan: "ClipPlan", take: Take) -> "ClipPlan":
    block = take.clip * plan.blocks_per_clip
    seed = take.seed(plan.script.seed_at(block, plan.seed))
    # What holds from the beginning is no change.
    return replace(plan, seed=seed) if not block else replace(plan, script=plan.script.with_seed(block, seed))
