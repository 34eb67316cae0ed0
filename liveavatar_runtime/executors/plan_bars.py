"""Where every byte of a plan goes: on each device and in RAM, row by row, with what may be filled."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..planning.memory import activation_bytes, cache_bytes, ram_bytes, staging_bytes, text_bytes
from ..planning.workload import Workload
from .plan_case import Answer, Case, shape_of
from .size_costs import Planned

WEIGHTS, CACHES, BUFFERS, VAE, ACTIVATIONS = "Weights", "KV caches", "Cache buffers", "VAE", "Prompt and activations"
OTHERS = "System, other models"
"""Of RAM: what is taken by all but this plan."""


@dataclass(frozen=True)
class MemoryBar:
    """`rows`: bytes by name; `limit`: bytes that may be filled, `size`: that are there."""

    title: str
    rows: tuple[tuple[str, float], ...]
    limit: float
    size: float

    @property
    def filled(self) -> float:
        return sum(size for _, size in self.rows)

    @property
    def is_over(self) -> bool:
        return self.filled > self.limit


def bars_of(found: Answer) -> tuple[MemoryBar, ...]:
    """Of each device that works, and of RAM; of what does not fit, as it would be with more memory."""
    case, shape = found.case, shape_of(found)
    if shape is None:
        return ()
    devices = tuple(_device_bar(case, shape, number) for number in range(len(shape.option.memory)))
    return devices if case.shares_ram else (*devices, _ram_bar(case, shape))


def _device_bar(case: Case, shape: Planned, number: int) -> MemoryBar:
    device = case.machines.devices[number]
    vae = case.setup.decoder_bytes if case.decodes[number] else 0
    placement = replace(shape.stages.placement, batched=shape.stages.placement.batched or shape.option.streams)
    own = _work_of(case, shape, number)
    in_ram = ram_bytes(own, placement)
    rows = [
        (CACHES, cache_bytes(own, placement) - in_ram),
        (BUFFERS, staging_bytes(own, placement)),
        (ACTIVATIONS, text_bytes(own) + activation_bytes(own, placement.batched)),
        (VAE, vae),
    ]
    weights = shape.option.memory[number] - sum(size for _, size in rows)
    if case.shares_ram:
        rows[0] = (CACHES, cache_bytes(own, placement))
    rows = [(WEIGHTS, max(0.0, weights)), *rows]
    size = device.memory or sum(size for _, size in rows)
    return MemoryBar(_device_title(case, number), tuple(rows), min(device.usable, size), size)


def _device_title(case: Case, number: int) -> str:
    name = case.machines.devices[number].name
    alike = [device.name for device in case.machines.devices].count(name) > 1
    return f"{name}, number {number + 1}" if alike else name


def _work_of(case: Case, shape: Planned, number: int) -> Workload:
    """What a device samples."""
    stages, work = shape.stages, case.work
    if len(stages.layers) == 1:
        return work
    return work.of_stage(stages.layers[number], stages.steps[number])


def _ram_bar(case: Case, shape: Planned) -> MemoryBar:
    caches = sum(_caches_in_ram(case, shape))
    weights = case.weights_in_ram
    rows = ((OTHERS, case.taken), (WEIGHTS, float(weights)), (CACHES, caches))
    return MemoryBar("RAM", rows, case.taken + weights + case.free_ram, case.ram)


def _caches_in_ram(case: Case, shape: Planned) -> Iterator[float]:
    for number in range(len(shape.stages.layers)):
        yield ram_bytes(_work_of(case, shape, number), shape.stages.placement)
