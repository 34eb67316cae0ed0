"""What was measured on a card, as `python -m benchmarks.card` writes it; a card without a file here is predicted."""

import json
import math
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..reading import read_json, readable
from .rates import Rates

FOLDER = Path(__file__).parent / "calibrations"
"""One JSON file for each card that was measured."""
DROPPED = re.compile(r"NVIDIA|GeForce|Tesla|\d+\s*GB|HBM\w*|SXM\d*|-", re.IGNORECASE)
"""Of a card's full name: maker, series, memory, socket. What is left tells cards of one speed."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Rates of one card. `flops`, `decode_flops`: operations a second of an evaluation and of decoding, as `workload`
    counts them, in bf16 at 688x368; `matmul_flops`: of a product of 8192 cubed; `memory` in bytes; `host_bandwidth`:
    bytes a second between pinned memory and the card; `attention_flops` over a full ring; `convolution_flops` of the
    decoder's convolutions alone; `memory_bandwidth`: bytes a second of all that is none of these. A rate that was not
    measured is None. `measured_with`: versions and date, for people."""

    card: str
    memory: float
    flops: float
    decode_flops: float | None = None
    matmul_flops: float | None = None
    host_bandwidth: float | None = None
    attention_flops: float | None = None
    convolution_flops: float | None = None
    memory_bandwidth: float | None = None
    measured_with: str = ""

    @property
    def name(self) -> str:
        return short_name(self.card)

    @property
    def rates(self) -> Rates | None:
        """Each kind of work by itself, if all of them were measured."""
        products, attention, convolutions, memory = (
            self.matmul_flops,
            self.attention_flops,
            self.convolution_flops,
            self.memory_bandwidth,
        )
        if products is None or attention is None or convolutions is None or memory is None:
            return None
        return Rates(products=products, attention=attention, convolutions=convolutions, memory=memory)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Calibration":
        """Raises InputError when a rate is missing or no positive number; keys that are not known are ignored."""
        known = {field.name for field in fields(cls)}
        missing = sorted({"card", "memory", "flops"} - values.keys())
        wrong = [
            key
            for key in known - {"card", "measured_with"}
            if values.get(key) is not None and not _positive(values[key])
        ]
        wrong += [key for key in ("card", "measured_with") if not isinstance(values.get(key, ""), str)]
        if missing or wrong:
            raise InputError(
                f"the calibration lacks {', '.join(missing) or 'nothing'}, and {', '.join(sorted(wrong)) or 'nothing'} "
                "in it is no positive number; make it with python -m benchmarks.card"
            )
        return cls(**{key: value for key, value in values.items() if key in known})

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def short_name(card: str) -> str:
    """From a card's full name: H100 of NVIDIA H100 80GB HBM3, RTX 4090 of NVIDIA GeForce RTX 4090."""
    return " ".join(DROPPED.sub(" ", card).split()) or card


def load_calibrations(folder: Path = FOLDER) -> dict[str, Calibration]:
    """By short name; empty where there is no folder. Raises InputError for a file that is no calibration."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        with readable(path, "a calibration"):
            calibration = Calibration.from_dict(read_json(path))
        found[calibration.name] = calibration
    return found
