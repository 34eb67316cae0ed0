"""Speed of devices and cost of a model's parts, measured where that decides how the layers are split.

A layer pipeline is as fast as its slowest stage. Counted operations know nothing of how fast a card is, nor of what
takes long without being a product, so the parts are timed on the devices themselves (`sample_model`).
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from .sample_model import measure_parts, sample_bytes, sample_flops
from .workload import PartCosts, Workload

log = logging.getLogger(__name__)

GRAIN = 0.05
"""Costs and speeds are rounded, relative to a layer and to the slowest device: noise must not change a split."""
CPU_FLOPS = 2e10
"""Operations a second that one thread of a processor is taken to do where measuring would take too long."""
LONGEST_SECONDS = 1.0
"""Of a measurement on a processor."""

MakeRoom = Callable[[torch.device, int], object]
"""Called before so many bytes are used on a device; may raise torch.cuda.OutOfMemoryError."""


class Measurements:
    """What was measured in this process, by sizes of the model, shape of the plan, dtype and kind of device."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], PartCosts | None] = {}
        self._lock = threading.Lock()

    def of(self, work: Workload, device: torch.device, make_room: MakeRoom | None = None) -> PartCosts | None:
        """Devices of one kind are measured once. None when the device had no room for it."""
        plan, kind = work.plan, kind_of(device)
        key = (work.config, plan.latent_size, plan.steps, plan.window_blocks, plan.infer_frames, work.dtype, kind)
        with self._lock:
            # Tried again, models would go for it at every prompt, and the split might change from one to the next.
            if key not in self._known:
                self._known[key] = seconds_on(work, device, make_room)
            return self._known[key]


def seconds_on(work: Workload, device: torch.device, make_room: MakeRoom | None = None) -> PartCosts | None:
    """Measured; counted on a processor that would take long. None when the device has no room for it."""
    rate = CPU_FLOPS * torch.get_num_threads()
    if device.type == "cpu" and sample_flops(work) > LONGEST_SECONDS * rate:
        costs = work.counted_flops
        return PartCosts(costs.layer / rate, costs.voice / rate, costs.first / rate, costs.last / rate)
    start = time.perf_counter()
    try:
        if make_room is not None:
            make_room(device, sample_bytes(work))
        seconds = measure_parts(work, device)
    except torch.cuda.OutOfMemoryError:
        log.warning("%s has no room to measure a layer; the layers are split by their operations", device)
        return None
    log.info(
        "Measured on %s in %.2f s: a layer takes %.2f ms, with the voice %.2f ms more; before the layers %.2f ms, "
        "after them %.2f ms",
        *(kind_of(device), time.perf_counter() - start),
        *(1e3 * part for part in (seconds.layer, seconds.voice, seconds.first, seconds.last)),
    )
    return seconds


def kind_of(device: torch.device) -> str:
    """Devices of one kind are equally fast."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@dataclass(frozen=True)
class Timed:
    """A workload with the parts' costs as they were measured, and how fast each stage's device is by itself: `speeds`,
    relative to `rate`, the operations a second of the slowest kind (None: not measured, the speeds are equal)."""

    work: Workload
    speeds: tuple[float, ...]
    rate: float | None = None


def measured_on(
    work: Workload, devices: Sequence[torch.device], known: Measurements, make_room: MakeRoom | None = None
) -> Timed:
    """For a stage on each device. Not measured where a device has no room."""
    return with_measured(work, [known.of(work, device, make_room) for device in devices])


def decides_split(work: Workload, stages: int) -> bool:
    """Whether there is more than one way to split the layers."""
    return 1 < stages < work.config.num_layers


def stages_beside(devices: Sequence[torch.device]) -> list[int]:
    """For each stage, how many stages share its device."""
    places = [place_of(device) for device in devices]
    return [places.count(place) for place in places]


def place_of(device: torch.device) -> tuple[str, int | None]:
    """Equal for devices that are the same one: the processor is, whatever its number."""
    return device.type, 0 if device.type == "cpu" else device.index


def with_measured(work: Workload, seconds: Sequence[PartCosts | None]) -> Timed:
    """From what was measured on the device of each stage; costs are relative to a layer, the mean of all of them."""
    known = [parts for parts in seconds if parts is not None]
    if len(known) < len(seconds):
        return Timed(work, (1.0,) * len(seconds))
    layer = work.counted_flops.layer

    def cost(of: Callable[[PartCosts], float]) -> float:
        return rounded(sum(of(parts) / parts.layer for parts in known) / len(known)) * layer

    costs = PartCosts(layer, cost(lambda p: p.voice), cost(lambda p: p.first), cost(lambda p: p.last))
    timed = replace(work, measured_flops=costs)
    times = [parts.evaluation(work.config) for parts in known]
    operations = timed.evaluation_flops(range(work.config.num_layers))
    return Timed(timed, tuple(rounded(max(times) / time) for time in times), operations / max(times))


def rounded(value: float) -> float:
    """To a multiple of GRAIN, of larger ones to 5 % or less; the same on every machine."""
    _, exponent = math.frexp(value)
    grain = GRAIN * 2.0 ** max(0, exponent - 1)
    return round(value / grain) * grain
