"""What is taken of cards that other processes use, and the driver: from NVIDIA's library, where it is installed.

`nvidia-ml-py` is optional. Of a card that this process uses PyTorch says the same; asking PyTorch about any other one
would take hundreds of MiB of it.
"""

from contextlib import suppress
from functools import lru_cache
from typing import Protocol, cast

import torch

from liveavatar_runtime.sampling.pace import DeviceMemory


class MemoryInfo(Protocol):
    used: int
    total: int


class Nvml(Protocol):
    """The module `pynvml`, as far as it is used."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...

    def nvmlSystemGetDriverVersion(self) -> str | bytes: ...

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes) -> object: ...

    def nvmlDeviceGetMemoryInfo(self, handle: object) -> MemoryInfo: ...


@lru_cache(1)
def nvml() -> Nvml | None:
    """The library, ready; None where it is not installed or finds no driver."""
    with suppress(ImportError):
        import pynvml  # pyright: ignore[reportMissingImports]

        with suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            return cast(Nvml, pynvml)
    return None


def driver_version() -> str | None:
    """Of NVIDIA's driver; None where nobody says it."""
    library = nvml()
    if library is None:
        return None
    with suppress(library.NVMLError):
        version = library.nvmlSystemGetDriverVersion()
        return version.decode() if isinstance(version, bytes) else version
    return None


def memory_by_driver(device: torch.device) -> DeviceMemory | None:
    """What is taken of a card, by whoever; takes nothing of it. None where the library does not know it."""
    library = nvml()
    if library is None or device.type != "cuda":
        return None
    with suppress(library.NVMLError):
        handle = library.nvmlDeviceGetHandleByUUID(_uuid(device).encode())
        info = library.nvmlDeviceGetMemoryInfo(handle)
        return DeviceMemory(str(device), int(info.used), int(info.total))
    return None


def _uuid(device: torch.device) -> str:
    """As the driver has it, whatever CUDA_VISIBLE_DEVICES has made of the order of the cards."""
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"
