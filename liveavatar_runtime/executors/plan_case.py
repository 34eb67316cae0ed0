"""A plan on a model and a machine, asked about before anything runs: does it fit, and what does it take."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from ..device_kinds import has_fp8
from ..devices import AUTO
from ..dit.placement import Placement, StoredType
from ..planning.device import RESERVED_SHARE
from ..planning.machines import Machines
from ..planning.memory import LADDER, CacheChoice, decode_bytes, settled, streamed_bytes
from ..planning.observed import NONE_OBSERVED, ObservedSpeeds
from ..planning.stages import StagePlan
from ..planning.workload import Workload
from ..vae.config import VaeConfig
from .size_costs import Planned, Setup, SizeCost, corrected, cost_of, least_cost, planned, planned_stages, ram_of
from .table import DEFAULT


@dataclass(frozen=True)
class Decoding:
    """A VAE beside the sampling: its sizes and dtype, and the numbers in its weights."""

    config: VaeConfig
    dtype: torch.dtype
    parameters: int

    def size(self, work: Workload) -> int:
        """Bytes of its weights and of its work."""
        return self.parameters * self.dtype.itemsize + decode_bytes(self.config, work.plan, self.dtype)


@dataclass(frozen=True, kw_only=True)
class Case:
    """`machines`: the devices that sample, with nothing else on them, and RAM as it is free for caches; `every`: all
    that the machine has, where those are more. `decodes`: for each device of `machines`, whether the VAE works there.
    `ram`: bytes of system memory in all; `taken`: of it by all but the plan's weights and caches; `weights_in_ram`: by
    the weights, wherever they go from there. `precision`: of the weights, as Load Avatar Model has it, "" where they
    cannot be had in another one. `card`: short name of the devices, by which `observed` knows them: what
    runs on this machine took."""

    work: Workload
    machines: Machines
    decodes: tuple[bool, ...]
    vae: Decoding
    ram: float
    taken: float
    weights_in_ram: int = 0
    executor: str = AUTO
    caches: CacheChoice = CacheChoice()
    every: Machines | None = None
    precision: str = AUTO
    card: str = ""
    observed: ObservedSpeeds = NONE_OBSERVED

    @cached_property
    def setup(self) -> Setup:
        """With the VAE's work on the devices that decode."""
        size, machines = self.vae.size(self.work), self.machines
        devices = tuple(
            replace(device, occupied=size if decodes else 0.0)
            for device, decodes in zip(machines.devices, self.decodes, strict=True)
        )
        decoder = self.decodes.index(True) if any(self.decodes) else None
        placed = replace(machines, devices=devices, decoder=decoder)
        executor = DEFAULT if self.executor == AUTO and len(devices) == 1 else self.executor
        return Setup(
            machines=placed,
            decoder_bytes=size,
            executor=executor,
            caches=self.caches,
            cards=(self.card,) * len(devices),
            observed=self.observed,
        )

    @property
    def beside_weights(self) -> Workload:
        """The work, of which RAM is only to hold the caches where the weights are counted there already."""
        work = self.work
        return replace(work, on_disk_bytes=work.weights(work.layers)) if self.weights_in_ram else work

    @property
    def shares_ram(self) -> bool:
        """Whether the devices' memory is the system's."""
        return all(device.pool is not None for device in self.machines.devices)

    @property
    def free_ram(self) -> float:
        """Bytes of RAM that caches may take; below 0 where the weights find no room either."""
        return self.machines.devices[0].ram

    @property
    def ladder(self) -> tuple[StoredType, ...]:
        """What `auto` of kv_dtype may stand for on these devices."""
        kinds = {device.kind for device in self.machines.devices}
        return LADDER if all(has_fp8(torch.device(kind)) for kind in kinds) else LADDER[:1]

    def with_ram(self, size: float) -> "Case":
        """The same with so many bytes of RAM free for caches."""
        devices = tuple(replace(device, ram=size) for device in self.machines.devices)
        return replace(self, machines=replace(self.machines, devices=devices))

    def on_all(self) -> "Case":
        """With all devices of the machine."""
        every = self.every or self.machines
        decodes = (*self.decodes, *[False] * len(every.devices))[: len(every.devices)]
        return replace(self, machines=every, decodes=decodes, every=None)

    @property
    def ram_in_all(self) -> float:
        """Bytes that caches may take of RAM whatever is free of it now: what decides the caches' dtype, since that is
        part of what makes a video."""
        devices = self.setup.machines.devices
        room = sum((device.usable - device.occupied) / device.shared_by for device in devices)
        weights = streamed_bytes(self.work, room, Placement("ram")) if self.work.on_disk_bytes == 0 else 0
        return max(0, int(self.ram * (1 - RESERVED_SHARE) - weights))


@dataclass(frozen=True)
class Answer:
    """`asked`: the case; `case`: with the caches' dtype that its run would settle on; `stages`: who samples what, None
    when nothing fits."""

    asked: Case
    case: Case
    stages: StagePlan | None

    @property
    def fits(self) -> bool:
        return self.stages is not None

    @cached_property
    def cost(self) -> SizeCost:
        """What it takes; of what does not fit, what it would at least."""
        work, setup = self.case.beside_weights, self.case.setup
        if self.stages is None:
            return least_cost(work, setup)
        return corrected(cost_of(work, planned(work, setup, self.stages)), work, setup, self.stages)


def answer(case: Case) -> Answer:
    """As a run would plan it."""
    own = settled_case(case)
    return Answer(case, own, stages_of(own))


def stages_of(case: Case) -> StagePlan | None:
    """Who samples what, if RAM holds the caches that are to be there beside all else."""
    stages = planned_stages(case.beside_weights, case.setup)
    if stages is None or case.shares_ram:
        return stages
    return stages if ram_of(case.work, stages) <= case.free_ram else None


def settled_case(case: Case) -> Case:
    """With what `auto` of kv_dtype stands for."""
    if case.caches.kv_dtype != AUTO:
        return case
    in_all = case.with_ram(case.ram_in_all)

    def fits_in_all(caches: CacheChoice) -> bool:
        return stages_of(replace(in_all, caches=caches)) is not None

    return replace(case, caches=settled(case.caches, fits_in_all, case.ladder))


def shape_of(found: Answer) -> Planned | None:
    """What is planned, or would be with more RAM, a larger card, or both: for people who ask what is missing."""
    case = found.case
    roomy = [case, case.with_ram(UNLIMITED), _large(case), _large(case.with_ram(UNLIMITED))]
    for one in roomy:
        stages = stages_of(one)
        if stages is not None:
            return planned(one.beside_weights, one.setup, stages)
    return None


UNLIMITED = 2.0**50
"""Bytes of more memory than any plan fills."""


def _large(case: Case) -> Case:
    """With more memory on the devices."""
    return with_memory(case, [UNLIMITED] * len(case.machines.devices))


def with_memory(case: Case, sizes: Sequence[float]) -> Case:
    """With so many bytes on each device; where it is the system's, there as well."""
    devices = tuple(
        replace(device, memory=size, pool=None if device.pool is None else size)
        for device, size in zip(case.machines.devices, sizes, strict=True)
    )
    return replace(case, machines=replace(case.machines, devices=devices))
