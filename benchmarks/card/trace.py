"""What PyTorch's profiler saw, from its trace file: kernels, host calls that wait, marked ranges, gaps.

The trace's format (Chrome's) is the same in every version; the profiler's own objects are not.
"""

import json
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

KERNEL, COPIES = "kernel", ("gpu_memcpy", "gpu_memset")
HOST_CALLS = ("cuda_runtime", "cuda_driver")
WAITING = ("Synchronize", "cudaMemcpy", "cuMemcpy")
"""Parts of the names of host calls that wait for the device; copies whose name ends in Async don't."""
KINDS = (
    ("attention", ("flash", "fmha", "attention", "attn", "sdpa", "mha")),
    ("convolution", ("conv", "fprop", "implicit", "im2col")),
    ("matmul", ("gemm", "nvjet", "cutlass", "cublas", "matmul", "addmm", "::mm", "::bmm", "linear", "splitk")),
)
"""Of a kernel, by parts of its name; the first that fits."""
OTHER = "other"


@dataclass(frozen=True)
class Event:
    """Times in microseconds of the trace's clock. `thread`: the host thread, or the device's stream."""

    name: str
    category: str
    start: float
    seconds: float
    thread: tuple[Any, Any]

    @property
    def end(self) -> float:
        return self.start + 1e6 * self.seconds

    def holds(self, other: "Event") -> bool:
        return self.thread == other.thread and self.start <= other.start < self.end


@dataclass(frozen=True)
class Trace:
    events: tuple[Event, ...]

    @property
    def device_work(self) -> list[Event]:
        """Kernels and copies on the card; without a card the processor's operations."""
        found = [event for event in self.events if event.category in (KERNEL, *COPIES)]
        return found or [event for event in self.events if event.category == "cpu_op"]

    def ranges(self, name: str) -> list[Event]:
        """Of `torch.profiler.record_function`, as the host went through them."""
        return [event for event in self.events if event.category == "user_annotation" and event.name == name]

    @property
    def saw_host_calls(self) -> bool:
        return any(event.category in HOST_CALLS for event in self.events)

    def waits(self, inside: Iterable[Event]) -> list[Event]:
        """Host calls in these ranges that wait for the device."""
        ranges = list(inside)
        calls = [event for event in self.events if event.category in HOST_CALLS and waits(event.name)]
        return [call for call in calls if any(one.holds(call) for one in ranges)]


def waits(name: str) -> bool:
    """Whether a host call of that name waits for the device."""
    return any(part in name for part in WAITING) and "Async" not in name and "StreamWaitEvent" not in name


def kind_of(name: str) -> str:
    lower = name.lower()
    return next((kind for kind, parts in KINDS if any(part in lower for part in parts)), OTHER)


def traced(call: Callable[[], object], device: torch.device) -> Trace:
    """Runs it under the profiler, until the device is done."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return parse(json.loads(path.read_text(encoding="utf-8", errors="replace")))


def parse(content: Any) -> Trace:
    """The complete events ("X") of a Chrome trace."""
    rows = content["traceEvents"] if isinstance(content, dict) else content
    return Trace(
        tuple(
            Event(
                row["name"],
                str(row.get("cat", "")).lower(),
                float(row["ts"]),
                float(row.get("dur", 0)) / 1e6,
                (row.get("pid"), row.get("tid")),
            )
            for row in rows
            if row.get("ph") == "X"
        )
    )


@dataclass(frozen=True)
class Usage:
    """Seconds from the first event's start to the last one's end, and of them those in which something ran."""

    span: float
    busy: float

    @property
    def gap(self) -> float:
        """Share of the time in which nothing ran."""
        return 1 - self.busy / self.span if self.span else 0.0


def usage(events: Iterable[Event]) -> Usage:
    ordered = sorted((event.start, event.end) for event in events)
    if not ordered:
        return Usage(0.0, 0.0)
    busy, reached = 0.0, ordered[0][0]
    for start, end in ordered:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return Usage((reached - ordered[0][0]) / 1e6, busy / 1e6)
