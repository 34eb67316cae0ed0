"""Spool: a video's finished clips on the disk, and the states that sampling can be continued from.

<key>/clip-000012.safetensors    latents of clip 12
<key>/state-0000052.safetensors  state before block 52: the rings, and the finished blocks of its clip
<key>/warm-up-000012             clip 12 was begun without a state, so it does not follow exactly from clip 11
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
from .checked_files import TEMPORARY_SUFFIX, DamagedFile, read_tensors, write_tensors

ABOUT = "spool.json"
LATENTS = "latents"
_CLIP = re.compile(r"clip-(\d+)\.safetensors")
_STATE = re.compile(r"state-(\d+)\.safetensors")
_WARM_UP = re.compile(r"warm-up-(\d+)")


@dataclass(frozen=True)
class State:
    """What sampling is continued from: the next block, the rings before it, finished blocks of its clip (or None).

    `rings` as in `LatentBlock.rings`; `latents` float32 [16, 3 * blocks, h, w].
    """

    next_block: int
    rings: Mapping[str, Tensor]
    latents: Tensor | None = None

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.rings.values())


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
        for leftover in self.folder.glob(f".*{TEMPORARY_SUFFIX}"):
            leftover.unlink(missing_ok=True)
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
        return self._numbers(_CLIP)

    def read_clip(self, clip: int) -> Tensor | None:
        """Latents float32 [16, infer_frames / 4, h, w]; None when there are none or they were damaged (now deleted)."""
        tensors = self._read(self._clip_path(clip))
        # A mapped file could not be replaced on Windows.
        return None if tensors is None else tensors[LATENTS].clone()

    def write_clip(self, clip: int, latents: Tensor, still_needed: int = 0) -> None:
        """Raises MachineError when the disk refuses; `still_needed` bytes is what the message says to make room for."""
        self._write(self._clip_path(clip), {LATENTS: latents}, still_needed)

    def begin_anew_at(self, clip: int, blocks_per_clip: int) -> None:
        """Forget this clip and all that comes after, and note that it is begun by a warm-up."""
        for block in self.states():
            if block > clip * blocks_per_clip:
                self.remove_state(block)
        for number in self.clips():
            if number >= clip:
                self._clip_path(number).unlink(missing_ok=True)
        for number in self.warm_ups():
            if number > clip:
                self._warm_up_path(number).unlink(missing_ok=True)
        self._warm_up_path(clip).touch()

    def warm_ups(self) -> list[int]:
        """Clips that were begun by a warm-up, ascending."""
        return self._numbers(_WARM_UP)

    def states(self) -> list[int]:
        """Blocks that sampling can be continued before, ascending."""
        return self._numbers(_STATE)

    def read_state(self, next_block: int) -> State | None:
        """None when there is none or it was damaged (now deleted)."""
        tensors = self._read(self._state_path(next_block))
        if tensors is None:
            return None
        latents = tensors.pop(LATENTS, None)
        return State(next_block, tensors, latents)

    def write_state(self, state: State, still_needed: int = 0) -> None:
        """Raises MachineError when the disk refuses."""
        partial = {} if state.latents is None else {LATENTS: state.latents}
        self._write(self._state_path(state.next_block), {**state.rings, **partial}, still_needed)

    def remove_state(self, next_block: int) -> None:
        self._state_path(next_block).unlink(missing_ok=True)

    def _clip_path(self, clip: int) -> Path:
        return self.folder / f"clip-{clip:06}.safetensors"

    def _state_path(self, next_block: int) -> Path:
        return self.folder / f"state-{next_block:07}.safetensors"

    def _warm_up_path(self, clip: int) -> Path:
        return self.folder / f"warm-up-{clip:06}"

    def _numbers(self, pattern: re.Pattern[str]) -> list[int]:
        if not self.folder.is_dir():
            return []
        found = (pattern.fullmatch(name) for name in os.listdir(self.folder))
        return sorted(int(match[1]) for match in found if match)

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
                f"are needed there, {_mib(free)} are free. What was made until now is kept: make room (Avatar Spools "
                "clears what older videos left) and queue again."
            ) from error


def same(tensor: Tensor | None, shape: tuple[int, ...]) -> bool:
    """Whether latents read from a spool are there and have the shape that the plan asks for."""
    return tensor is not None and tuple(tensor.shape) == shape and tensor.dtype == torch.float32


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
