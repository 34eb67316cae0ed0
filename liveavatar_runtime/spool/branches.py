"""Branches of a spool: which of a video's files belong to which course that it has taken (`chain.py`)."""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..texts import fine_size
from .chain import Branch, branch_path, read_branches
from .spool import mark_of_file, number_of_clip
from .times import when

NAME_LENGTH = 8
"""Characters of a mark by which a branch is named."""


@dataclass(frozen=True)
class BranchInfo:
    """What belongs to one branch alone. `mark` names it: "" for the video in which nothing changes. `clips`: its
    finished clips, from 0, with their files; `size`: bytes of all its files, states too; `used`: seconds since 1970, 0
    where that is unknown."""

    mark: str
    clips: Mapping[int, Path]
    size: int
    used: float

    @property
    def name(self) -> str:
        return self.mark[:NAME_LENGTH]

    def __str__(self) -> str:
        size, used = fine_size(self.size), when(self.used, time.time())
        if not self.clips:
            return f"{self.name}: no finished clips of its own, {size}, used {used}"
        first = min(self.clips) + 1
        return f"{self.name}: from clip {first} on, {len(self.clips)} clips of its own, {size}, used {used}"


def branches_in(folder: Path) -> list[BranchInfo]:
    """Those of a spool, the video in which nothing changes first, the others by their first clip. What several have in
    common counts for the one that was noted first."""
    files: dict[str, dict[Path, os.stat_result]] = {}
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            mark = mark_of_file(entry.name)
            if mark is not None:
                with suppress(OSError):
                    files.setdefault(mark, {})[Path(entry.path)] = entry.stat(follow_symlinks=False)
    noted: list[Branch] = []
    with suppress(OSError):
        noted = sorted(read_branches(folder), key=partial(_noted_at, folder))
    infos = [_info("", files.pop("", {}))]
    for branch in noted:
        own: dict[Path, os.stat_result] = {}
        for mark in _marks(branch):
            own |= files.pop(mark, {})
        infos.append(_info(branch.mark, own))
    # Takes of a clip alone, and what is left of branches that went on in another way.
    infos += [_info(mark, own) for mark, own in files.items()]
    return sorted(infos, key=lambda info: (bool(info.mark), min(info.clips, default=0), info.used))


def files_of_alone(folder: Path, name: str) -> list[Path]:
    """Files of the branches of this name that no other branch needs. Raises OSError."""
    branches = list(read_branches(folder))
    others = {mark for branch in branches if branch.mark[:NAME_LENGTH] != name for mark in _marks(branch)}
    own = {mark for branch in branches if branch.mark[:NAME_LENGTH] == name for mark in _marks(branch)}
    found: list[Path] = []
    for file in os.listdir(folder):
        mark = mark_of_file(file)
        if mark and mark not in others and (mark in own or mark[:NAME_LENGTH] == name):
            found.append(folder / file)
    return found


def _marks(branch: Branch) -> set[str]:
    return {link.mark for link in branch.links}


def _noted_at(folder: Path, branch: Branch) -> float:
    with suppress(OSError):
        return branch_path(folder, branch).stat().st_ctime
    return 0.0


def _info(mark: str, files: Mapping[Path, os.stat_result]) -> BranchInfo:
    numbers = {path: number_of_clip(path.name) for path in files}
    clips = {number: path for path, number in numbers.items() if number is not None}
    used = max((stat.st_mtime for stat in files.values()), default=0.0)
    return BranchInfo(mark, clips, sum(stat.st_size for stat in files.values()), used)
