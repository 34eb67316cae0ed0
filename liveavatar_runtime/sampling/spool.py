"""Spool: a video's finished clips on the disk, and the states that sampling can be continued from.

<key>/clip-000012.safetensors    latents of clip 12
<key>/state-0000052.safetensors  state before block 52: the rings, and the finished blocks of its clip
<key>/state-0000052-fp8.safetensors  the same with the rings in fp8
<key>/anew-0000052-warm-up       block 52 was begun without a state, so it does not follow exactly from block 51
<key>/anew-0000052-fp8           block 52 was begun from a state in fp8
<key>/spool.json                 what it is, for people; its time is when it was last used
<key>.lock                       held by whoever samples
"""

import json
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ..errors import MachineError
from .checked_files import DamagedFile, clear_unfinished, read_tensors, write_tensors
from .states import State, rings_from_fp8, rings_in_fp8

ABOUT = "spool.json"
LATENTS = "latents"
_CLIP = re.compile(r"clip-(\d+)\.safetensors")
_STATE = re.compile(r"state-(\d+)(-fp8)?\.safetensors")
_ANEW = re.compile(r"anew-(\d+)-(fp8|warm-up)")


@dataclass(frozen=True)
class Beginning:
    """A block from which on a video was made anew, so that it does not follow exactly from what was before: after a
    warm-up of one ring length, or from the state in fp8 before this block. Block 0: the beginning of the video."""

    block: int = 0
    from_fp8: bool = False


class Spool:
    """Only the holder of the lock may write; anyone may read at any time."""

    def __init__(self, folder: Path, about: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.about = dict(about or {})
        self._lock = FileLock(folder.with_name(folder.name + ".lock"), timeout=0, thread_local=False)

    @classmethod
    def temporary(cls, parent: Path | None = None) -> "Spool":
        """A spool that is deleted with this object; in the system's folder for temporary files unless told."""
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
        outer = tempfile.mkdtemp(prefix="liveavatar-spool-", dir=parent)
        spool = cls(Path(outer) / "spool")
        weakref.finalize(spool, shutil.rmtree, outer, True)
        return spool

    @property
    def locked(self) -> bool:
        """Whether this object holds the lock."""
        return self._lock.is_locked

    def try_lock(self) -> bool:
        """Become the one who writes, make the folder, remove what a crash left half-written; False when another is."""
        if self._lock.is_locked:
            return True
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            # Another one may have cleared it before it let go.
            self.folder.mkdir(exist_ok=True)
        except Timeout:
            return False
        except OSError as error:
            raise MachineError(
                f"the folder for finished clips, {self.folder}, cannot be used: {error}. Make room there, or allow "
                "writing."
            ) from error
        clear_unfinished(self.folder)
        # For people only: when the disk is full, the clips that don't fit say it better.
        with suppress(OSError):
            if not (self.folder / ABOUT).exists():
                (self.folder / ABOUT).write_text(json.dumps(self.about))
        return True

    def unlock(self) -> None:
        self._lock.release()

    def touch(self) -> None:
        """Note that it was used now; what was not used for longest is removed first."""
        if (self.folder / ABOUT).exists():
            os.utime(self.folder / ABOUT)

    def has_clip(self, clip: int) -> bool:
        return self._clip_path(clip).exists()

    def clips(self) -> list[int]:
        """Numbers of all finished clips."""
        return sorted(int(match[1]) for match in self._matches(_CLIP))

    def read_clip(self, clip: int) -> Tensor | None:
        """Latents float32 [16, infer_frames / 4, h, w]; None when there are none or they were damaged (now deleted)."""
        tensors = self._read(self._clip_path(clip))
        # A mapped file could not be replaced on Windows.
        return None if tensors is None else tensors[LATENTS].clone()

    def write_clip(self, clip: int, latents: Tensor, still_needed: int = 0) -> None:
        """Raises MachineError when the disk refuses; `still_needed` bytes is what the message says to make room for."""
        self._write(self._clip_path(clip), {LATENTS: latents}, still_needed)

    def begin_anew_at(self, beginning: Beginning, blocks_per_clip: int) -> None:
        """Forget the block's clip and all that comes after it, and note that it is begun anew."""
        block = beginning.block
        for number in self.states():
            if number > block:
                self.remove_state(number)
        for number in self.clips():
            if number >= block // blocks_per_clip:
                self._clip_path(number).unlink(missing_ok=True)
        for other in self.beginnings():
            if other.block >= block:
                self._anew_path(other).unlink(missing_ok=True)
        self._anew_path(beginning).touch()

    def beginnings(self) -> list[Beginning]:
        """Where the video was begun anew, ascending."""
        found = [Beginning(int(match[1]), match[2] == "fp8") for match in self._matches(_ANEW)]
        return sorted(found, key=lambda beginning: beginning.block)

    def last_beginning(self, block: int) -> Beginning:
        """The last one at or before a block."""
        return next((found for found in reversed(self.beginnings()) if found.block <= block), Beginning())

    def states(self) -> list[int]:
        """Blocks that sampling can be continued before, ascending."""
        return sorted({int(match[1]) for match in self._matches(_STATE)})

    def is_fp8(self, next_block: int) -> bool:
        """Whether the rings of a state are in fp8."""
        return not self._state_path(next_block).exists()

    def read_state(self, next_block: int) -> State | None:
        """None when there is none or it was damaged (now deleted)."""
        fp8 = self.is_fp8(next_block)
        tensors = self._read(self._state_path(next_block, fp8))
        if tensors is None:
            return None
        latents = tensors.pop(LATENTS, None)
        return State(next_block, rings_from_fp8(tensors) if fp8 else tensors, latents)

    def write_state(self, state: State, still_needed: int = 0, fp8: bool = False) -> None:
        """Raises MachineError when the disk refuses. An exact state is not replaced by one in fp8, nor one in fp8 that
        the video went on from by an exact one, which its later clips do not fit."""
        went_on = Beginning(state.next_block, from_fp8=True) in self.beginnings()
        if self._state_path(state.next_block).exists() if fp8 else went_on:
            return
        partial = {} if state.latents is None else {LATENTS: state.latents}
        rings = rings_in_fp8(state.rings) if fp8 else state.rings
        self._write(self._state_path(state.next_block, fp8), {**rings, **partial}, still_needed)

    def remove_state(self, next_block: int) -> None:
        for fp8 in (False, True):
            self._state_path(next_block, fp8).unlink(missing_ok=True)

    def _clip_path(self, clip: int) -> Path:
        return self.folder / f"clip-{clip:06}.safetensors"

    def _state_path(self, next_block: int, fp8: bool = False) -> Path:
        return self.folder / f"state-{next_block:07}{'-fp8' * fp8}.safetensors"

    def _anew_path(self, beginning: Beginning) -> Path:
        return self.folder / f"anew-{beginning.block:07}-{'fp8' if beginning.from_fp8 else 'warm-up'}"

    def _matches(self, pattern: re.Pattern[str]) -> list[re.Match[str]]:
        names = os.listdir(self.folder) if self.folder.is_dir() else []
        return [match for match in map(pattern.fullmatch, names) if match]

    def _read(self, path: Path) -> dict[str, Tensor] | None:
        try:
            return read_tensors(path)
        except FileNotFoundError:
            return None
        except DamagedFile:
            path.unlink(missing_ok=True)
            return None

    def _write(self, path: Path, tensors: Mapping[str, Tensor], still_needed: int) -> None:
        assert self._lock.is_locked, "only the holder of the lock writes"
        try:
            write_tensors(path, tensors)
        except OSError as error:
            size = sum(tensor.nbytes for tensor in tensors.values())
            free = shutil.disk_usage(self.folder).free
            raise MachineError(
                f"the finished clips could not be kept in {self.folder}: {error}. {_mib(max(size, still_needed))} more "
                f"are needed there, {_mib(free)} are free. What was made until now is kept: make room (Finished Clips "
                "clears what older videos left) and queue again."
            ) from error


def same(tensor: Tensor | None, shape: tuple[int, ...]) -> bool:
    """Whether latents read from a spool are there and have the shape that the plan asks for."""
    return tensor is not None and tuple(tensor.shape) == shape and tensor.dtype == torch.float32


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
