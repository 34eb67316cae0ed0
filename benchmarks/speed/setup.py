"""What the parts of the comparison are given, and what they give."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch


@dataclass(frozen=True)
class Setup:
    """Folders of the peers, None for one that was not given; `quick`: as few pairs as possible, to try the program."""

    device: torch.device
    comfyui: Path | None = None
    original: Path | None = None
    quick: bool = False

    def few(self, pairs: int) -> int:
        return min(pairs, 2) if self.quick else pairs


@dataclass(frozen=True)
class Row:
    """What was measured of a part, or why it was not. `values`: by the name of a column."""

    part: str
    what: str
    peer: str
    values: Mapping[str, float] = field(default_factory=dict)
    why_not: str = ""

    @classmethod
    def skipped(cls, part: str, why: str) -> "Row":
        return cls(part, "", "", why_not=why)
