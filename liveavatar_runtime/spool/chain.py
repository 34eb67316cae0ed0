"""Chain: what clips and states of a video are named by beside their numbers, where something changed in its course.

What a clip shows is decided by all that was in force until its end. So a mark, a hash, stands for all changes until
then, each with the mark before it; before the first change there is none. Two videos that are equal until a change have
their clips until then in common, and a video that goes back to what it was finds them again.
"""

import json
import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..fingerprint import Fingerprint
from ..sampling.conditions import Conditions
from ..sampling.plan import ClipPlan
from .checked_files import remove_path, replace_file

MARK = r"[0-9a-f]{16}"
BRANCH_NAME = re.compile(rf"branch-({MARK})\.json")
LARGEST = 2**24
"""Bytes of a branch's file; one clip takes about 30."""


@dataclass(frozen=True)
class Link:
    """From a block, or a clip, on the mark is this one."""

    number: int
    mark: str


@dataclass(frozen=True)
class Chain:
    """Marks of a video of `clips` clips; `links` by ascending block. Without any nothing changes in it, which is how
    earlier versions know videos."""

    links: tuple[Link, ...] = ()
    blocks_per_clip: int = 1
    clips: int = 0

    def of_block(self, block: int) -> str:
        """The mark of what is in force at a block."""
        return _mark(self.links, block)

    def of_clip(self, clip: int) -> str:
        """The mark of a clip: of its last block."""
        return self.of_block((clip + 1) * self.blocks_per_clip - 1)

    def of_state(self, next_block: int) -> str:
        """The mark of a state: of the last block that it comes from."""
        return self.of_block(max(0, next_block - 1))

    @cached_property
    def branch(self) -> "Branch":
        """Its clips."""
        links: list[Link] = []
        firsts = {link.number // self.blocks_per_clip for link in self.links}
        for clip in sorted(first for first in firsts if first < max(1, self.clips)):
            links.append(Link(clip, self.of_clip(clip)))
        return Branch(tuple(links))


@dataclass(frozen=True)
class Branch:
    """Marks of a video's clips, by ascending clip; without any it is the video in which nothing changes."""

    links: tuple[Link, ...] = ()

    @property
    def mark(self) -> str:
        """The last one, which names the branch."""
        return self.links[-1].mark if self.links else ""

    def of_clip(self, clip: int) -> str:
        return _mark(self.links, clip)

    def from_clip(self, clip: int) -> set[str]:
        """The mark of a clip and all later ones: what bears one of them, from that clip on, goes on from it."""
        return {self.of_clip(clip), *(link.mark for link in self.links if link.number > clip)}


PLAIN = Chain()


def chain_of(plan: ClipPlan, conditions: Conditions, heard: Sequence[str] = ()) -> Chain:
    """The chain of a plan with its script. `heard`: where features do not depend on later sound, what names those of
    each block."""
    script = plan.script
    changes = {change.block: change for change in script.changes if change.block < plan.num_blocks}
    links: list[Link] = []
    mark = ""
    for block in sorted({0, *changes, *range(min(len(heard), plan.num_blocks))}):
        new: dict[str, Any] = {}
        change = changes.get(block)
        if block == 0 and script.motion != 1.0:
            new["motion"] = script.motion
        if change is not None:
            new |= {"seed": change.seed, "motion": change.motion}
        if block < len(heard):
            new["heard"] = heard[block]
        if not new:
            continue
        fingerprint = Fingerprint().add("before", mark).add("block", block).add("new", new)
        if change is not None and change.text:
            fingerprint.add("text", conditions.texts[block])
        if change is not None and change.picture:
            fingerprint.add("picture", conditions.pictures[block])
        mark = fingerprint.hexdigest()[:16]
        links.append(Link(block, mark))
    return Chain(tuple(links), plan.blocks_per_clip, plan.num_clip)


def write_branch(folder: Path, branch: Branch) -> None:
    """Note the marks of a branch, which tell what follows from a clip that is made anew. What the branch goes on from
    is forgotten. Raises OSError."""
    if not branch.links or branch_path(folder, branch).exists():
        return
    for other in read_branches(folder):
        if len(other.links) < len(branch.links) and other.links == branch.links[: len(other.links)]:
            remove_path(branch_path(folder, other))
    path = branch_path(folder, branch)
    content = json.dumps([[link.number, link.mark] for link in branch.links]).encode()
    replace_file(path, folder / f".{path.name}.tmp", [content])


def read_branches(folder: Path) -> Iterator[Branch]:
    """Those that were noted; what is no branch is left out. Raises OSError."""
    names: list[str] = []
    with suppress(FileNotFoundError, NotADirectoryError):
        names = sorted(filter(BRANCH_NAME.fullmatch, os.listdir(folder)))
    for name in names:
        with suppress(FileNotFoundError, ValueError, RecursionError, TypeError, KeyError):
            with (folder / name).open("rb") as file:
                links = [Link(int(number), str(mark)) for number, mark in json.loads(file.read(LARGEST))]
            if all(re.fullmatch(MARK, link.mark) for link in links) and links:
                yield Branch(tuple(links))


def branch_path(folder: Path, branch: Branch) -> Path:
    """Where a branch is noted."""
    return folder / f"branch-{branch.mark}.json"


def _mark(links: Sequence[Link], number: int) -> str:
    """The last mark at or before a block or clip."""
    found = bisect_right(links, number, key=lambda link: link.number)
    return links[found - 1].mark if found else ""


def named(mark: str) -> str:
    """How a file's name tells a mark."""
    return f"-{mark}" if mark else ""


def told(mark: str) -> Mapping[str, str]:
    """How a file's content is bound to a mark."""
    return {"mark": mark} if mark else {}
