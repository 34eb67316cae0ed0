"""Where the key/value caches are."""

from dataclasses import dataclass
from typing import Literal

Place = Literal["device", "ram"]
StoredType = Literal["model", "fp8"]


@dataclass(frozen=True)
class Placement:
    """Where the key/value caches are, what they are kept as, and whether the blocks of all steps run as one batch.

    `device_layers`: of a cache in RAM, the layers that stay on the device all the same.
    """

    kv_cache: Place = "device"
    kv_dtype: StoredType = "model"
    batched: bool = False
    device_layers: int = 0

    @property
    def resident(self) -> bool:
        """Whether attention reads the cache itself instead of a buffer."""
        return self.kv_cache == "device" and self.kv_dtype == "model"

    @property
    def reads_in_place(self) -> bool:
        """Whether attention may read the layers that stay on a card in place, two steps beside one sink
        (`paired_cache`)."""
        return self.kv_cache == "ram" and self.device_layers > 0 and self.kv_dtype == "model" and not self.batched

    def __str__(self) -> str:
        where = "on the device" if self.kv_cache == "device" else "in RAM"
        if self.device_layers:
            where = f"of {self.device_layers} layers on the device, others in RAM"
        kept = " as fp8" if self.kv_dtype == "fp8" else ""
        return f"KV caches {where}{kept}, {'all steps in one batch' if self.batched else 'one step at a time'}"


ON_DEVICE, IN_RAM = Placement(), Placement("ram")
