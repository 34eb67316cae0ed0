"""What every step is given: the device, sizes, options, the recorder; clocks and memory that work on any device."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from .budget import Budget
from .records import Recorder

GIB = 2**30
T = TypeVar("T")


@dataclass(frozen=True)
class OutOfMemory:
    """What a call found instead of a result."""

    message: str


@dataclass
class Bench:
    """`tiny`: the demo's sizes and few rounds, to try everything on a processor. `comfyui`, `original`: folders with
    other programs' modules, None where there are none. `kept`: what steps of one process share, the model above all."""

    device: torch.device
    record: Recorder
    budget: Budget
    tiny: bool = False
    comfyui: Path | None = None
    original: Path | None = None
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def on_card(self) -> bool:
        return self.device.type == "cuda"

    def shared(self, name: str, make: Callable[[], T]) -> T:
        """What another step of this process has made under that name, or is made now."""
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]

    def forget(self, *names: str) -> None:
        """Let go of what is shared (all of it without names) and give the memory back."""
        for name in names or list(self.kept):
            self.kept.pop(name, None)
        self.empty()

    def empty(self) -> None:
        gc.collect()
        if self.on_card:
            torch.cuda.empty_cache()

    def finish(self) -> None:
        """Wait until the device has done what it was given."""
        if self.on_card:
            torch.cuda.synchronize(self.device)

    def allocated(self) -> int:
        """Bytes of tensors on the card; 0 on a processor."""
        return torch.cuda.memory_allocated(self.device) if self.on_card else 0

    def held(self) -> int:
        """Bytes that PyTorch's allocator holds on the card, those of freed tensors included; 0 on a processor."""
        return torch.cuda.memory_reserved(self.device) if self.on_card else 0

    def total_memory(self) -> int:
        """Bytes of the card; of a processor, what a tiny run takes as its card."""
        return torch.cuda.get_device_properties(self.device).total_memory if self.on_card else 80 * GIB

    @contextmanager
    def watched(self) -> "Iterator[Peak]":
        """The most memory that was used inside, in the fields of what it gives, once it is left."""
        peak = Peak()
        if self.on_card:
            self.finish()
            torch.cuda.reset_peak_memory_stats(self.device)
        yield peak
        if self.on_card:
            self.finish()
            peak.allocated = torch.cuda.max_memory_allocated(self.device)
            peak.reserved = torch.cuda.max_memory_reserved(self.device)

    def attempt(self, call: Callable[[], T]) -> "T | OutOfMemory":
        """The call's result; when the card is full the memory is free again afterwards."""
        try:
            return call()
        except torch.cuda.OutOfMemoryError as error:
            message = str(error).splitlines()[0][:300]
        # Only now: inside the handler the traceback holds the tensors of the failed call.
        self.empty()
        return OutOfMemory(message)

    def seconds_of(self, call: Callable[[], object], rounds: int, warm_ups: int = 3) -> list[float]:
        """Seconds of each of so many calls, on the device's own clock where it has one."""
        for _ in range(warm_ups):
            call()
        self.finish()
        if not self.on_card:
            return [_clocked(call) for _ in range(rounds)]
        marks = [Mark.now(self.device)]
        for _ in range(rounds):
            call()
            marks.append(Mark.now(self.device))
        self.finish()
        return spans(marks)

    def median_of(self, call: Callable[[], object], rounds: int = 20, warm_ups: int = 3) -> float:
        """Median seconds of a call."""
        if self.tiny:
            rounds, warm_ups = 2, 1
        return statistics.median(self.seconds_of(call, rounds, warm_ups))


@dataclass
class Peak:
    """Bytes; None on a processor, whose allocator does not count."""

    allocated: int | None = None
    reserved: int | None = None


@dataclass(frozen=True)
class Mark:
    """A moment in the device's work."""

    event: Any = None
    clock: float = 0.0

    @classmethod
    def now(cls, device: torch.device) -> "Mark":
        if device.type != "cuda":
            return cls(clock=time.perf_counter())
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(device))
        return cls(event)

    def until(self, later: "Mark") -> float:
        """Seconds; on a card both must have passed (`Bench.finish`)."""
        if self.event is None:
            return later.clock - self.clock
        return self.event.elapsed_time(later.event) / 1e3


def spans(marks: list[Mark]) -> list[float]:
    """Seconds between each mark and the next."""
    return [first.until(second) for first, second in zip(marks, marks[1:], strict=False)]


def _clocked(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def dtype_name(dtype: torch.dtype) -> str:
    names = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
    return names.get(dtype, str(dtype).removeprefix("torch."))
