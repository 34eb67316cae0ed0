"""A device as every plan sees it: what it has, what of it may be filled, how fast it is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..texts import GIB
from .calibration import Calibration
from .ranges import Source
from .rates import Rates

DECODE_SHARE = 0.42
"""Of an evaluation's operations a second: what decoding reached on the H100 that was measured."""
MEASURED_ERROR = 0.1
"""Of a speed that is predicted from measured rates."""
RESERVED_SHARE = 0.08
"""Of a device's memory, or of the system's where that is the same: what no plan may fill, for every executor alike.

It is for the driver's context (0.3 to 0.6 GiB), for what PyTorch's allocator holds and cannot use (its pieces do not
fit together), and for the desktop and other programs. The VAE is none of it: its weights and its work are counted where
it decodes (`Device.occupied`)."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """A card, a processor, or what a stage of a pipeline has of one. All sizes are bytes.

    `kind`: its type in PyTorch; `memory`: in all, None for a device that does not tell, which is taken to have enough;
    `reserve`: the share that stays free; `occupied`: taken by what does not sample, which is the VAE and its work;
    `shared_by`: stages that share it equally, memory and speed alike.

    `flops`: sustained operations/s in half precision on this model, about half of the peak; only their relation counts
    where nothing is simulated. `decode_flops`: of the VAE's decoder, None for `DECODE_SHARE` of that. `rates`: each
    kind of work by itself, where that is known. `source`: where they come from;
    `error`: what they may be off by, as in `Range.around`.

    `ram`: system memory for caches and weights that find no room, with what of the weights is there already; `pool`:
    all system memory, where the device's is a part of it (processors, Apple's GPUs): there the same bytes must not be
    given away twice.
    """

    name: str = ""
    kind: str = "cuda"
    memory: float | None = None
    reserve: float = RESERVED_SHARE
    occupied: float = 0
    shared_by: int = 1
    flops: float = 1.0
    decode_flops: float | None = None
    rates: Rates | None = None
    source: Source = "assumed"
    error: float = 0.5
    streams: bool = True
    ram: float = 128 * GIB
    pool: float | None = None

    @property
    def usable(self) -> float:
        """Bytes that programs can fill."""
        return math.inf if self.memory is None else int(self.memory * (1 - self.reserve))

    @property
    def room(self) -> float:
        """Bytes that sampling may take, or one stage of those that share the device."""
        left = max(0, self.usable - self.occupied)
        return left if math.isinf(left) else left // self.shared_by

    @property
    def usable_pool(self) -> float | None:
        return None if self.pool is None else int(self.pool * (1 - self.reserve))

    @property
    def speed(self) -> float:
        """Operations/s of one stage of those that share the device."""
        return self.flops / self.shared_by

    @property
    def decoding(self) -> float:
        """Operations/s of the decoder."""
        return DECODE_SHARE * self.speed if self.decode_flops is None else self.decode_flops / self.shared_by

    @property
    def alone(self) -> "Device":
        """All of it, for one stage."""
        return replace(self, shared_by=1)

    def moving(self, share: float) -> "Device":
        """As if its work moved only this share of the bytes beside products."""
        if self.rates is None:
            return self
        return replace(self, rates=replace(self.rates, memory=self.rates.memory / share))

    def calibrated(self, calibrations: Mapping[str, Calibration]) -> "Device":
        """With the rates that were measured on a card of this name, if one was; its own memory stays."""
        found = calibrations.get(self.name)
        if found is None:
            return self
        return replace(
            self,
            flops=found.flops,
            decode_flops=found.decode_flops,
            rates=found.rates,
            source="measured",
            error=MEASURED_ERROR,
        )
