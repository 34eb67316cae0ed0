"""Memory of cards and system while a video is made: the most that was taken, and what to do when it is full."""

from collections.abc import Callable, Sequence

import psutil
import torch

from liveavatar_runtime.sampling.pace import DeviceMemory
from liveavatar_runtime.texts import gib

from .card_memory import memory_by_driver
from .memory import used_memory

FULL, ROOMY = 0.95, 0.6
"""Shares of a device: above the first the next block may find no room, below the second it could do more."""
RAM = torch.device("cpu")
WAYS_TOLD = 3

FreeingWays = Callable[[torch.device], Sequence[str]]
"""What frees memory of a device, the most useful first."""
Devices = Sequence[torch.device]


class MemoryWatch:
    """Of the devices of this process, of those of workers on this machine, and of the RAM."""

    def __init__(
        self,
        here: Sequence[torch.device],
        elsewhere: Sequence[torch.device] = (),
        ways: FreeingWays = lambda device: (),
    ) -> None:
        self._here = tuple(dict.fromkeys((*here, RAM)))
        self._elsewhere = tuple(device for device in dict.fromkeys(elsewhere) if device not in self._here)
        self._ways = ways
        self.peaks: dict[str, DeviceMemory] = {}
        self._told: dict[str, str] = {}

    def begin(self) -> None:
        """Forget what was."""
        self.peaks, self._told = {}, {}

    def read(self) -> list[DeviceMemory]:
        """What is taken now; peaks and warnings are brought up to date."""
        found = [used_memory(device) for device in self._here]
        found += [memory_by_driver(device) for device in self._elsewhere]
        known = [memory for memory in found if memory is not None]
        for memory in known:
            most = self.peaks.get(memory.device)
            if most is None or memory.used > most.used:
                self.peaks[memory.device] = memory
            self._check(memory)
        return known

    @property
    def devices(self) -> tuple[torch.device, ...]:
        return (*self._here, *self._elsewhere)

    @property
    def warnings(self) -> list[str]:
        """Of devices that were nearly full."""
        return list(self._told.values())

    def hints(self) -> list[str]:
        """Of cards that have much room left."""
        return [
            f"{memory.device} was never fuller than {memory.used / memory.total:.0%}: a larger size or a better "
            "precision may fit; num_clip does not change what a card holds"
            for memory in self.peaks.values()
            if memory.device != RAM.type and memory.used < ROOMY * memory.total
        ]

    def unknown(self) -> list[str]:
        """Of devices whose memory nobody here sees."""
        return [
            f"The memory of {device} is not known here: ComfyUI does not use it itself, and nvidia-ml-py, which "
            "could tell, is not installed or does not know it"
            for device in self._elsewhere
            if str(device) not in self.peaks
        ]

    def _check(self, memory: DeviceMemory) -> None:
        used = taken_ram() if memory.device == RAM.type else memory.used
        if memory.device not in self._told and used > FULL * memory.total:
            ways = self._ways(torch.device(memory.device))
            self._told[memory.device] = full_text(DeviceMemory(memory.device, used, memory.total), ways)


def taken_ram() -> int:
    """By all programs, in bytes."""
    memory = psutil.virtual_memory()
    return int(memory.total - memory.available)


def full_text(memory: DeviceMemory, ways: Sequence[str]) -> str:
    """What a user reads of a device that is nearly full."""
    name = "RAM" if memory.device == RAM.type else memory.device
    share, used, total = memory.used / memory.total, gib(memory.used), gib(memory.total)
    first = f"{name} is {share:.0%} full ({used} of {total}); the next block may find no room"
    return f"{first}. What frees memory: {'; '.join(ways[:WAYS_TOLD])}" if ways else first
