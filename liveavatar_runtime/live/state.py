"""What a live video goes on from after a stop: one file, which the next one replaces."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..disk import is_full, what_to_do
from ..errors import MachineError, handled, reason_of, replaced
from ..spool.checked_files import DamagedFile, NotFinite, clear_unfinished, read_tensors, write_tensors
from ..spool.lock_file import LockFile

NAME = "live.safetensors"
RING, FRAME, PAST = "ring.", "frame.", "past"


@dataclass(frozen=True, eq=False)
class LiveState:
    """Before block `next_block`: the rings (`LatentBlock.rings`), the first latent frames [16, 1, h, w] by block that
    sinks are made from, and the last latents [16, n, h, w], for a decoder."""

    next_block: int
    rings: Mapping[str, Tensor]
    frames: Mapping[int, Tensor] = field(default_factory=dict)
    past: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        tensors = {RING + name: ring for name, ring in self.rings.items()}
        tensors |= {f"{FRAME}{block}": frame for block, frame in self.frames.items()}
        return tensors if self.past is None else {**tensors, PAST: self.past}

    @classmethod
    def of_tensors(cls, next_block: int, tensors: Mapping[str, Tensor]) -> "LiveState":
        rings = {name.removeprefix(RING): tensor for name, tensor in tensors.items() if name.startswith(RING)}
        frames = {int(name.removeprefix(FRAME)): tensor for name, tensor in tensors.items() if name.startswith(FRAME)}
        return cls(next_block, rings, frames, tensors.get(PAST))


class StateFile:
    """In `folder`, whose name is the video's key. Who writes holds the lock (`lock`); whoever comes second is told.

    A file's block is part of its name, so that it can be read as nothing else; the one before goes when the new one is
    whole.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = LockFile(folder.with_name(folder.name + ".lock"))

    def lock(self) -> None:
        """Raises MachineError when another session of this video runs, or where nothing can be written."""
        with replaced(OSError, self._unusable):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._lock.acquire():
                raise MachineError(
                    "another live session goes on from the same place: it runs in another ComfyUI with this user "
                    "folder. Stop it first, or change the seed of Clip Scheduler."
                )
            clear_unfinished(self.folder)

    def unlock(self) -> None:
        self._lock.release()

    def read(self) -> LiveState | None:
        """The newest one; None where there is none, or one that is damaged, which is removed."""
        for path in sorted(self._files(), reverse=True):
            block = int(path.name.split("-")[1])
            found = None
            with handled(DamagedFile, lambda error, path=path: path.unlink(missing_ok=True)):
                with suppress(FileNotFoundError), replaced(OSError, self._unusable):
                    found = read_tensors(path, self._what(block))
            if found is not None:
                return LiveState.of_tensors(block, found)
        return None

    def write(self, state: LiveState) -> None:
        """Raises MachineError when the disk is full or refuses, or the state has values that are not numbers; the one
        before stays then."""

        def not_kept(error: BaseException) -> MachineError:
            if isinstance(error, NotFinite):
                return MachineError("the state of the live video has values that are not numbers and is not kept")
            full = " The disk is full." if isinstance(error, OSError) and is_full(error) else ""
            return MachineError(f"the state of the live video could not be kept: {reason_of(error)}.{full}")

        before = self._files()
        path = self.folder / f"live-{state.next_block:012d}-{NAME}"
        with replaced((OSError, NotFinite), not_kept):
            write_tensors(path, state.tensors(), self._what(state.next_block))
        for older in before:
            if older != path:
                with suppress(OSError):
                    older.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return [path for path in self.folder.glob(f"live-*-{NAME}") if path.name.split("-")[1].isdecimal()]

    def _what(self, block: int) -> dict[str, Any]:
        return {"kind": "live state", "video": self.folder.name, "block": block}

    def _unusable(self, error: OSError) -> MachineError:
        return MachineError(f"the folder {self.folder} cannot be used: {reason_of(error)}. {what_to_do(error)}")
