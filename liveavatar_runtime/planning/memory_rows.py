"""What a plan takes of a memory, row by row; a plan fits where the sums do."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from ..texts import size_text

What = Literal[
    "weights",
    "streamed weights",
    "gather buffers",
    "KV caches",
    "staging buffers",
    "prompt",
    "blocks under way",
    "activations",
    "VAE",
    "reserve",
]
"""Of weights that come from system memory, "weights" is what stays on the device, with the layers that are under way,
and "streamed weights" is what stays in system memory. "gather buffers": layers that FSDP has whole while they compute.
"blocks under
way": their latents, voice and positions. "VAE": its weights and its work. "reserve": what no plan may fill."""
ORDER: tuple[What, ...] = get_args(What)


@dataclass(frozen=True)
class MemoryRow:
    """`size` in bytes."""

    what: What
    size: float


Rows = tuple[MemoryRow, ...]


def rows_of(sizes: Iterable[tuple[What, float]]) -> Rows:
    """In one order, equal ones together, without those that take nothing."""
    summed = dict.fromkeys(ORDER, 0.0)
    for what, size in sizes:
        summed[what] += size
    return tuple(MemoryRow(what, size) for what, size in summed.items() if size > 0)


def together(*parts: Rows) -> Rows:
    return rows_of((row.what, row.size) for rows in parts for row in rows)


def taken(rows: Rows) -> float:
    """Their sum, which is compared with what there is."""
    return sum(row.size for row in rows)


def rows_text(rows: Rows) -> str:
    """ "weights 15.6 GiB, KV caches 4.2 GiB"."""
    return ", ".join(f"{row.what} {size_text(row.size)}" for row in rows)
