"""Spool: a video's finished clips on the disk, and the states that sampling can be continued from.

<key>/clip-000012.safetensors    latents of clip 12
<key>/state-0000052.safetensors  state before block 52: the rings, and the finished blocks of its clip
<key>/state-0000052-fp8.safetensors  the same with the rings in fp8
<key>/anew-0000052-warm-up       block 52 was begun without a state, so it does not follow exactly from block 51
<key>/anew-0000052-fp8           block 52 was begun from a state in fp8
<key>/clip-000012-<mark>.safetensors  the same of a video in which something has changed by then (`chain.py`); states
                                 and beginnings anew likewise
<key>/branch-<mark>.json         the marks of such a video
<key>/colours.json               factors from its latents to colours, for pictures of its clips
<key>/spool.json                 what it is, for people; its time is when it was last used
<key>.lock                       held by whoever samples, and only then there
"""

import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..disk import is_full, told, what_to_do
from ..errors import MachineError, handled, reason_of, replaced
from ..texts import mib
from .about import NAME as ABOUT
from .about import note_use, write_about
from .chain import BRANCH_NAME, MARK, PLAIN, Branch, Chain, branch_path, named, read_branches, write_branch
from .chain import told as told_of
from .checked_files import (
    DamagedFile,
    clear_unfinished,
    read_tensors,
    remove_path,
    sync_folder,
    write_tensors,
    written_bytes,
)
from .first_frames import Colours, write_colours
from .lock_file import LockFile
from .states import State, rings_from_fp8, rings_in_fp8

LATENTS = "latents"
STATE_KINDS = ("state", "state in fp8")
CLIP_NAME = re.compile(rf"clip-(\d+)(?:-({MARK}))?\.safetensors")
_STATE = re.compile(rf"state-(\d+)(?:-({MARK}))?(-fp8)?\.safetensors")
_ANEW = re.compile(rf"anew-(\d+)(?:-({MARK}))?-(fp8|warm-up)")


class NoRoom(MachineError):
    """The disk, or the budget, has no room for a clip or a state."""


@dataclass(frozen=True)
class InexactStart:
    """A block from which on a video was made anew, so that it does not follow exactly from what was before: after a
    warm-up of one ring length, or from the state in fp8 before this block. Block 0: the start of the video."""

    block: int = 0
    from_fp8: bool = False


class Spool:
    """Only the holder of the lock may write; anyone may read at any time, also where nothing can be written.

    The name of its folder is the video's key: a file can only be read in a folder of this name, and as the clip or
    state that it is. `refusal(bytes)` is asked before a file of that size is written, and says why not, or nothing.
    `chain`: what its clips and states are named by beside their numbers; those of other chains are other branches.
    """

    def __init__(
        self,
        folder: Path,
        about: Mapping[str, Any] | None = None,
        refusal: Callable[[int], str] = lambda size: "",
        chain: Chain = PLAIN,
    ) -> None:
        self.folder, self.chain = folder, chain
        self.about = dict(about or {})
        self.colours: Colours = ()
        """Of pictures of its latents, to be kept beside its clips."""
        self._refusal = refusal
        self._lock = LockFile(folder.with_name(folder.name + ".lock"))
        self._in_use = [chain]
        self.removed_of_others = 0
        """Clips of other branches that made room for this one's."""

    @classmethod
    def temporary(cls, parent: Path | None = None, chain: Chain = PLAIN) -> "Spool":
        """A spool that is deleted with this object; in the system's folder for temporary files unless told."""
        with told("finished clips cannot be kept in the folder for temporary files, {place}", parent):
            if parent is not None:
                parent.mkdir(parents=True, exist_ok=True)
            outer = tempfile.mkdtemp(prefix="liveavatar-spool-", dir=parent)
        spool = cls(Path(outer) / "spool", chain=chain)
        weakref.finalize(spool, shutil.rmtree, outer, True)
        return spool

    def with_chain(self, chain: Chain) -> "Spool":
        """Another branch in the same folder, under the same lock."""
        other = Spool(self.folder, self.about, self._refusal, chain)
        other._lock, other.colours = self._lock, self.colours
        # One video may be made of both: neither makes room for the other.
        self._in_use.append(chain)
        other._in_use = self._in_use
        return other

    @property
    def locked(self) -> bool:
        """Whether this object holds the lock."""
        return self._lock.acquired

    def try_lock(self) -> bool:
        """Become the one who writes, make the folder, remove what a crash left half-written; False when another is."""
        if self.locked:
            return True
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._lock.acquire():
                return False
            # Another one may have cleared it before it let go.
            self.folder.mkdir(exist_ok=True)
            clear_unfinished(self.folder)
        write_about(self.folder, self.about)
        with ExitStack() as failing, self._writing():
            failing.callback(self.unlock)
            write_branch(self.folder, self.chain.branch)
            failing.pop_all()
        write_colours(self.folder, self.colours)
        return True

    def unlock(self) -> None:
        self._lock.release()

    def touch(self) -> None:
        """Note that it was used now, and its branch; what was not used for longest is removed first."""
        note_use(self.folder)
        if self.chain.links:
            note_use(self.folder, branch_path(self.folder, self.chain.branch).name)

    def has_clip(self, clip: int) -> bool:
        return self._clip_path(clip).exists()

    def clips(self) -> list[int]:
        """Numbers of all finished clips."""
        found = ((int(match[1]), match[2] or "") for match in self._matches(CLIP_NAME))
        return sorted(number for number, mark in found if mark == self.chain.of_clip(number))

    def read_clip(self, clip: int, shape: tuple[int, ...]) -> Tensor | None:
        """Latents float32 of `shape`, [16, infer_frames / 4, h, w]; None when there are none or they were damaged, of
        another shape or of another clip or video (now deleted)."""
        path = self._clip_path(clip)
        tensors = self._read(path, self._what_clip(clip))
        if tensors is None:
            return None
        latents = tensors.get(LATENTS)
        if latents is None or not same(latents, shape):
            self._remove(path)
            return None
        return latents

    def write_clip(self, clip: int, latents: Tensor, still_needed: int = 0) -> None:
        """Raises MachineError when the disk refuses, NoRoom if it is full (`still_needed` bytes is what the text says
        to make room for) or the budget is; and NotFinite for values that are not numbers."""
        self._write(self._clip_path(clip), {LATENTS: latents}, self._what_clip(clip), still_needed)

    def note_inexact_start(self, start: InexactStart, blocks_per_clip: int) -> None:
        """Forget the block's clip and all that comes after it, also of branches that go on from it, and note that it is
        begun anew."""
        block, clip = start.block, start.block // blocks_per_clip
        for number in self.states():
            if number > block:
                self.remove_state(number)
        with self._writing():
            others = [Branch(), *read_branches(self.folder)]
        following = [other for other in others if other.of_clip(clip) == self.chain.of_clip(clip)]
        self._forget_clips(clip, self.chain.branch.from_clip(clip).union(*(one.from_clip(clip) for one in following)))
        if any(branch.mark != self.chain.branch.mark for branch in following):
            for path, number, _ in self.other_states():
                if number > block:
                    self._remove(path)
        for other in self.inexact_starts():
            if other.block >= block:
                self._remove(self._anew_path(other))
        with self._writing():
            self._anew_path(start).touch()
            sync_folder(self.folder)

    def _forget_clips(self, first: int, marks: set[str]) -> None:
        for match in self._matches(CLIP_NAME):
            if int(match[1]) >= first and (match[2] or "") in marks:
                self._remove(self.folder / match[0])

    def inexact_starts(self) -> list[InexactStart]:
        """Where the video was begun anew, ascending."""
        matches = (m for m in self._matches(_ANEW) if (m[2] or "") == self.chain.of_block(int(m[1])))
        return sorted((InexactStart(int(m[1]), m[3] == "fp8") for m in matches), key=lambda start: start.block)

    def last_inexact_start(self, block: int) -> InexactStart:
        """The last one at or before a block."""
        return next((found for found in reversed(self.inexact_starts()) if found.block <= block), InexactStart())

    def states(self) -> list[int]:
        """Blocks that sampling can be continued before, ascending."""
        return sorted({int(match[1]) for match in self._own_states()})

    def state_sizes(self) -> dict[int, int]:
        """Bytes on the disk of the states before each block."""
        sizes: dict[int, int] = {}
        for match in self._own_states():
            with suppress(FileNotFoundError):
                size = (self.folder / match[0]).lstat().st_size
                sizes[int(match[1])] = sizes.get(int(match[1]), 0) + size
        return sizes

    def _own_states(self) -> list[re.Match[str]]:
        return [m for m in self._matches(_STATE) if (m[2] or "") == self.chain.of_state(int(m[1]))]

    def other_states(self) -> list[tuple[Path, int, int]]:
        """States of other branches, longest unused first: file, next block, bytes."""
        own = {match[0] for match in self._own_states()}
        found: list[tuple[float, Path, int, int]] = []
        for match in self._matches(_STATE):
            path = self.folder / match[0]
            with suppress(FileNotFoundError):
                if match[0] not in own:
                    stat = path.lstat()
                    found.append((stat.st_mtime, path, int(match[1]), stat.st_size))
        return [(path, number, size) for _, path, number, size in sorted(found)]

    def remove_other_state(self, path: Path) -> None:
        """One of `other_states`."""
        self._remove(path)

    def is_fp8(self, next_block: int) -> bool:
        """Whether the rings of a state are in fp8."""
        return not self._state_path(next_block).exists()

    def read_state(self, next_block: int) -> State | None:
        """None when there is none or it was damaged (now deleted)."""
        fp8 = self.is_fp8(next_block)
        tensors = self._read(self._state_path(next_block, fp8), self._what_state(next_block, fp8))
        if tensors is None:
            return None
        latents = tensors.pop(LATENTS, None)
        return State(next_block, rings_from_fp8(tensors) if fp8 else tensors, latents)

    def write_state(self, state: State, still_needed: int = 0, fp8: bool = False) -> None:
        """Raises as `write_clip` does. An exact state is not replaced by one in fp8, nor one in fp8 that the video went
        on from by an exact one, which its later clips do not fit."""
        went_on = InexactStart(state.next_block, from_fp8=True) in self.inexact_starts()
        if self._state_path(state.next_block).exists() if fp8 else went_on:
            return
        partial = {} if state.latents is None else {LATENTS: state.latents}
        rings = rings_in_fp8(state.rings) if fp8 else state.rings
        what = self._what_state(state.next_block, fp8)
        self._write(self._state_path(state.next_block, fp8), {**rings, **partial}, what, still_needed)

    def remove_state(self, next_block: int) -> None:
        for fp8 in (False, True):
            self._remove(self._state_path(next_block, fp8))

    def _what_clip(self, clip: int) -> dict[str, Any]:
        """What a file is, beside its content."""
        return {"video": self.folder.name, "kind": "clip", "number": clip, **told_of(self.chain.of_clip(clip))}

    def _what_state(self, next_block: int, fp8: bool) -> dict[str, Any]:
        mark = told_of(self.chain.of_state(next_block))
        return {"video": self.folder.name, "kind": STATE_KINDS[fp8], "number": next_block, **mark}

    def _clip_path(self, clip: int) -> Path:
        return self.folder / f"clip-{clip:06}{named(self.chain.of_clip(clip))}.safetensors"

    def _state_path(self, next_block: int, fp8: bool = False) -> Path:
        mark = named(self.chain.of_state(next_block))
        return self.folder / f"state-{next_block:07}{mark}{'-fp8' * fp8}.safetensors"

    def _anew_path(self, start: InexactStart) -> Path:
        mark = named(self.chain.of_block(start.block))
        return self.folder / f"anew-{start.block:07}{mark}-{'fp8' if start.from_fp8 else 'warm-up'}"

    def _matches(self, pattern: re.Pattern[str]) -> list[re.Match[str]]:
        names: list[str] = []
        with self._writing(), suppress(FileNotFoundError, NotADirectoryError):
            names = os.listdir(self.folder)
        return [match for match in map(pattern.fullmatch, names) if match]

    def _oldest_of_other_branches(self) -> Path | None:
        """The clip of a branch that is not in use that was written first."""
        found: list[tuple[float, Path]] = []
        for match in self._matches(CLIP_NAME):
            if all((match[2] or "") != chain.of_clip(int(match[1])) for chain in self._in_use):
                with suppress(FileNotFoundError):
                    found.append(((self.folder / match[0]).lstat().st_mtime, self.folder / match[0]))
        return min(found)[1] if found else None

    def _read(self, path: Path, what: Mapping[str, Any]) -> dict[str, Tensor] | None:

        def unreadable(error: OSError) -> MachineError:
            return MachineError(
                f"{path} cannot be read: {reason_of(error)}. {what_to_do(error)} Without this file it is made again."
            )

        with handled(DamagedFile, lambda error: self._remove(path)), replaced(OSError, unreadable):
            with suppress(FileNotFoundError):
                return read_tensors(path, what)
        return None

    def _remove(self, path: Path) -> None:
        with self._writing():
            remove_path(path)

    def _writing(self) -> AbstractContextManager[None]:
        return replaced(OSError, self._unusable)

    def _unusable(self, error: OSError) -> MachineError:
        text = f"the folder for finished clips, {self.folder}, cannot be used: {reason_of(error)}."
        return MachineError(f"{text} {what_to_do(error)}")

    def _write(self, path: Path, tensors: Mapping[str, Tensor], what: Mapping[str, Any], still_needed: int) -> None:
        assert self.locked, "only the holder of the lock writes"
        size = written_bytes(tensors)
        while refusal := self._refusal(size):
            oldest = self._oldest_of_other_branches()
            if oldest is None:
                raise NoRoom(refusal)
            self._remove(oldest)
            self.removed_of_others += 1

        def not_kept(error: OSError) -> MachineError:
            text = f"the finished clips could not be kept in {self.folder}: {reason_of(error)}."
            if not is_full(error):
                return MachineError(f"{text} What was made until now is kept. {what_to_do(error)}")
            return NoRoom(
                f"{text} {mib(max(size, still_needed))} more are needed there, {mib(free_bytes(self.folder))} are "
                "free. What was made until now is kept: make room (Finished Clips clears what older videos left) and "
                "queue again."
            )

        with replaced(OSError, not_kept):
            write_tensors(path, tensors, what)


def is_spool_file(name: str) -> bool:
    """Whether files of this name are found in spools."""
    return name == ABOUT or mark_of_file(name) is not None


def number_of_clip(name: str) -> int | None:
    """Of a clip's file; None for another one."""
    match = CLIP_NAME.fullmatch(name)
    return int(match[1]) if match else None


def mark_of_file(name: str) -> str | None:
    """The mark of a clip, a state, a beginning anew or a branch by its file's name; "" for one without, None for other
    files."""
    if match := BRANCH_NAME.fullmatch(name):
        return match[1]
    match = CLIP_NAME.fullmatch(name) or _STATE.fullmatch(name) or _ANEW.fullmatch(name)
    return (match[2] or "") if match else None


def free_bytes(folder: Path) -> int:
    """Free bytes of the disk of a folder, which need not exist yet or any more."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(existing).free


def same(tensor: Tensor | None, shape: tuple[int, ...]) -> bool:
    """Whether latents read from a spool are there and have the shape that the plan asks for."""
    return tensor is not None and tuple(tensor.shape) == shape and tensor.dtype == torch.float32
