"""Where every byte of a plan goes, with what may be filled: the planner's rows on each device and in RAM."""

from dataclasses import dataclass

from ..planning.memory_rows import Rows, taken
from .plan_case import Answer, Case, shape_of
from .size_costs import Planned

OTHERS = "system and other models"
"""Of RAM: what is taken by all but this plan. The other rows are `memory_rows.What`."""


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
        """By more than a rounding."""
        return self.filled > self.limit + 1


def bars_of(found: Answer) -> tuple[MemoryBar, ...]:
    """Of each device that works, and of RAM; of what does not fit, as it would be with more memory."""
    case, shape = found.case, shape_of(found)
    if shape is None:
        return ()
    devices = tuple(_device_bar(case, shape, number) for number in range(len(shape.option.devices)))
    return devices if case.shares_ram else (*devices, _ram_bar(case, shape))


def _device_bar(case: Case, shape: Planned, number: int) -> MemoryBar:
    device, rows = case.machines.devices[number], shape.option.devices[number]
    if case.shares_ram and number == 0:
        rows = (*rows, *shape.option.ram)
    size = taken(rows) if device.memory is None else device.memory
    return MemoryBar(_device_title(case, number), _named(rows), min(device.usable, size), size)


def _named(rows: Rows) -> tuple[tuple[str, float], ...]:
    """Equal names together."""
    sizes: dict[str, float] = {}
    for row in rows:
        sizes[row.what] = sizes.get(row.what, 0.0) + row.size
    return tuple(sizes.items())


def _device_title(case: Case, number: int) -> str:
    name = case.machines.devices[number].name
    alike = [device.name for device in case.machines.devices].count(name) > 1
    return f"{name}, number {number + 1}" if alike else name


def _ram_bar(case: Case, shape: Planned) -> MemoryBar:
    """Weights that are streamed are a part of those that wait in RAM."""
    caches = [(row.what, row.size) for row in shape.option.ram if row.what != "streamed weights"]
    weights = [("weights", float(case.weights_in_ram))] * (case.weights_in_ram > 0)
    limit = case.taken + case.weights_in_ram + case.free_ram
    return MemoryBar("RAM", ((OTHERS, case.taken), *weights, *caches), limit, case.ram)
