"""What executor `auto` stands for with several devices: the fastest one that needs no workers and fits.

Each is simulated with the measured speeds of the devices, over links that are assumed (`Machines.here`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..dit.placement import Placement
from ..planning.forecast import Forecast, Option, Setting
from ..planning.machines import Machines
from ..planning.memory import CacheChoice
from ..planning.workload import Workload
from ..texts import rough_size
from .pipelines import caches_for
from .table import FOR_AUTO, TABLE

TIE = 0.05
"""Predicted speeds that differ by less are equal."""


@dataclass(frozen=True)
class Choice:
    executor: str
    why: str

    def __str__(self) -> str:
        return f"auto chose {self.executor}: {self.why}"


def choose_executor(work: Workload, machines: Machines, decoder_bytes: float, wanted: CacheChoice) -> Choice:
    """`decoder_bytes`: the VAE and its work, where it is on one of the devices; `wanted`: where the caches may be. When
    nothing fits, the executor whose planning says what is missing."""
    options = _options(work, machines, decoder_bytes, caches_for(machines, wanted).places())
    possible = [options[kind.name] for kind in FOR_AUTO if kind.name in options]
    fitting = [option for option in possible if option.fits]
    if not fitting:
        return Choice(possible[0].executor, f"nothing fits, {rough_size(max(possible[0].memory))} would be needed")
    if machines.is_one_device:
        return Choice(
            fitting[0].executor, f"the stages share one device, {rough_size(max(fitting[0].memory))} each at most"
        )
    fastest = max(option.fps.likely for option in fitting)
    chosen = next(option for option in fitting if option.fps.likely >= (1 - TIE) * fastest)
    return Choice(chosen.executor, _why(chosen, fitting))


def _options(
    work: Workload, machines: Machines, decoder_bytes: float, placements: Sequence[Placement]
) -> dict[str, Option]:
    """Of each executor, with the first setting that fits."""
    found: dict[str, Option] = {}
    for placement in placements:
        forecast = Forecast(work, machines, decoder_bytes, Setting(placement))
        for option in (option for kind in FOR_AUTO for option in kind.forecast(forecast)):
            best = found.get(option.executor)
            # As the run's plan does: of the places, the faster first, the first one where it fits.
            if best is None or (option.fits and not best.fits):
                found[option.executor] = option
    return found


def _why(chosen: Option, fitting: Sequence[Option]) -> str:
    """What the choice gives, against one device alone or, if that is chosen, against the best pipeline."""
    others = [option for option in fitting if option.executor != chosen.executor]
    if _is_shared(chosen):
        others = [option for option in others if not _is_shared(option)]
    if not others:
        alone = next(kind.name for kind in FOR_AUTO if not kind.shares)
        missing = f"{alone} does not fit" if _is_shared(chosen) else "no pipeline fits"
        return f"{missing}, {rough_size(max(chosen.memory))} a card"
    best = max(others, key=lambda option: option.fps.likely)
    return f"{chosen.fps.likely / best.fps.likely:.1f} x {best.executor}, {rough_size(max(chosen.memory))} a card"


def _is_shared(option: Option) -> bool:
    """Whether several devices share the work."""
    return TABLE[option.executor].shares != ""
