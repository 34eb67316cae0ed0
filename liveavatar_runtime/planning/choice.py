"""What executor `auto` stands for with several devices: the fastest one that needs no workers and fits.

Each is simulated with the measured speeds of the devices. How fast the links between them are is not measured: assumed
is PCIe 4.0 x16 without peer-to-peer access (`machines.PCIE_4`, 20 GB/s), and as much between RAM and devices.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..devices import LAYER_PIPELINE, LOCAL, TIMESTEP_PIPELINE
from ..dit.placement import Placement
from .advisor import Advisor, Option, Setting
from .machines import ETHERNET_10G, GIB, HOST_PCIE_4, PCIE_4, RESERVED_SHARE, Card, Machines
from .workload import Workload

PREFERRED = (LAYER_PIPELINE, TIMESTEP_PIPELINE, LOCAL)
"""Of executors that are equally fast, the first."""
TIE = 0.05
"""Predicted speeds that differ by less are equal."""


@dataclass(frozen=True)
class Place:
    """Bytes that the work on a device may take, the decoder included if it is there, and operations a second."""

    memory: float
    rate: float


@dataclass(frozen=True, kw_only=True)
class Places:
    """What there is. `stages`: one for each device that was named, in order; stages on one device share it. `alone`:
    the first device by itself. `one_device`: whether all stages are on it. `decoder`: the first stage whose device
    decodes too, None when another device does. `ram`: bytes for caches, and for weights that find no room."""

    stages: Sequence[Place]
    alone: Place
    one_device: bool
    decoder: int | None
    decoder_bytes: float
    ram: float


@dataclass(frozen=True)
class Choice:
    executor: str
    why: str

    def __str__(self) -> str:
        return f"auto chose {self.executor}: {self.why}"


def choose_executor(work: Workload, places: Places, placements: Sequence[Placement]) -> Choice:
    """`placements`: where the caches may be. When nothing fits, the executor whose planning says what is missing."""
    options = _options(work, places, placements)
    fitting = [options[name] for name in PREFERRED if name in options and options[name].fits]
    if not fitting:
        nearest = next(name for name in PREFERRED if name in options)
        return Choice(nearest, f"nothing fits, {_size(options[nearest])} would be needed")
    if places.one_device:
        return Choice(fitting[0].executor, f"the stages share one device, {_size(fitting[0])} each at most")
    fastest = max(option.fps for option in fitting)
    chosen = next(option for option in fitting if option.fps >= (1 - TIE) * fastest)
    return Choice(chosen.executor, _why(chosen, fitting))


def _options(work: Workload, places: Places, placements: Iterable[Placement]) -> dict[str, Option]:
    """The best setting of each executor: one that fits, then the fastest."""
    several = Advisor(work, _machines(places.stages, places.ram), places.decoder_bytes)
    one = Advisor(work, _machines([places.alone], places.ram), places.decoder_bytes)
    found: dict[str, Option] = {}
    for placement in placements:
        local = one.local(Setting(placement, decoder=0 if places.decoder == 0 else None))
        for option in (local, *several.pipelines(Setting(placement, decoder=places.decoder))):
            best = found.get(option.executor)
            if best is None or (option.fits, option.fps) > (best.fits, best.fps):
                found[option.executor] = option
    return found


def _machines(places: Sequence[Place], ram: float) -> Machines:
    """What a place has is all for the work, so what a card keeps for itself comes on top."""
    cards = tuple(Card(name="", memory=place.memory / (1 - RESERVED_SHARE), flops=place.rate) for place in places)
    return Machines(
        name="this machine",
        cards=cards,
        machine_of=(0,) * len(cards),
        link=PCIE_4,
        network=ETHERNET_10G,
        host=HOST_PCIE_4,
        ram=ram,
    )


def _why(chosen: Option, fitting: Sequence[Option]) -> str:
    """What the choice gives, against local or, if that is chosen, against the best pipeline."""
    others = [option for option in fitting if option.executor != chosen.executor]
    if chosen.executor != LOCAL:
        others = [option for option in others if option.executor == LOCAL]
    if not others:
        missing = "no pipeline fits" if chosen.executor == LOCAL else "local does not fit"
        return f"{missing}, {_size(chosen)} a card"
    best = max(others, key=lambda option: option.fps)
    return f"{chosen.fps / best.fps:.1f} x {best.executor}, {_size(chosen)} a card"


def _size(option: Option) -> str:
    most = max(option.memory)
    return f"{most / GIB:.1f} GiB" if most >= GIB else f"{most / 2**20:.0f} MiB"
