"""What the planner says of a run before it, and what the run tells the planner afterwards."""

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from liveavatar_runtime.duration import FRAMES_PER_BLOCK
from liveavatar_runtime.errors import MachineError
from liveavatar_runtime.run_report import Prediction

from .hardware import machines_of
from .observed_speeds import observed, record
from .page_sizes import known_device

if TYPE_CHECKING:
    from liveavatar_runtime.planning.forecast import Option
    from liveavatar_runtime.planning.observed import SpeedKey
    from liveavatar_runtime.planning.ranges import Range
    from liveavatar_runtime.run_report import RunReport

    from .prepared_job import PreparedJob

ENOUGH_BLOCKS = 8
"""Fewer say more of what else the machine did than of how fast it is."""


def speed_key(work: "PreparedJob") -> "SpeedKey | None":
    """What decides how fast a job is; None where nobody here knows the cards, which are those of other machines, and
    for a job that is driven."""
    from liveavatar_runtime.planning.calibration import short_name
    from liveavatar_runtime.planning.measured import kind_of
    from liveavatar_runtime.planning.observed import SpeedKey

    model, stages = work.job.model, work.executor.stages
    # Of workers only their devices are known, all of which work.
    devices = model.devices if stages is None else model.devices_here[: len(stages.layers)]
    if not devices or work.job.driven:
        # What encoding a driving video takes is not part of any prediction.
        return None
    cards = [short_name(kind_of(device)) for device in devices]
    executor = model.executor if stages is None else stages.executor
    return SpeedKey.of(work.job.work, cards, executor, work.executor.placement)


@dataclass(frozen=True)
class Foreseen:
    """figures: by the names of `RunReport.measured`, in seconds; none where the speed of the devices is not known.
    source: where they come from (`planning.ranges.Source`). memory: bytes on each device of this process that
    samples."""

    figures: Mapping[str, Prediction] = field(default_factory=dict)
    source: str = "unknown"
    memory: Mapping[str, float] = field(default_factory=dict)


def foreseen(work: "PreparedJob", key: "SpeedKey | None") -> Foreseen:
    """Of a job that is about to be sampled: from earlier runs like it on this machine, else from the planner."""
    option = _planned(work)
    devices = [str(device) for device in work.job.model.devices_here]
    # Of a device that several stages share each has its part.
    memory: Counter[str] = Counter()
    for device, size in zip(devices, option.memory if option is not None else (), strict=False):
        memory[device] += int(size)
    known = observed().find(key) if key is not None else None
    if known is not None:
        return Foreseen(_figures(work, known.fps, known.first_block), "observed", memory)
    if option is None or option.source == "unknown":
        return Foreseen(memory=memory)
    return Foreseen(_figures(work, option.fps, option.first_block), option.source, memory)


def _figures(work: "PreparedJob", fps: "Range", first: "Range") -> dict[str, Prediction]:
    blocks, block = len(work.job.plan.segment.blocks), fps.inverse(FRAMES_PER_BLOCK)
    whole = first.plus(block.scaled(blocks - 1)) if blocks > 1 else first
    found = {"block_seconds": block, "first_block_seconds": first, "seconds": whole}
    return {name: _prediction(value) for name, value in found.items()}


def _planned(work: "PreparedJob") -> "Option | None":
    """What the planner says of the executor and the caches that were chosen."""
    from liveavatar_runtime.executors.size_costs import Setup, planned
    from liveavatar_runtime.planning.memory import CacheChoice

    job, stages = work.job, work.executor.stages
    if stages is None:
        return None
    machines, placement = machines_of(job), work.executor.placement
    kinds = [known_device(device).rates for device in job.model.devices_here]
    names = ("flops", "decode_flops", "source", "error")
    rated = [
        replace(device, **{name: getattr(kind, name) for name in names})
        for device, kind in zip(machines.devices, kinds, strict=True)
    ]
    caches = CacheChoice(placement.kv_cache, placement.kv_dtype, "batched" if placement.batched else "sequential")
    setup = Setup(
        machines=replace(machines, devices=tuple(rated)),
        decoder_bytes=job.decoder_bytes,
        executor=stages.executor,
        caches=caches,
    )
    # Of a pipeline of one stage nothing is forecast; a run needs no prediction.
    with suppress(MachineError, ValueError):
        return planned(job.work, setup, stages).option
    return None


def keep(key: "SpeedKey | None", report: "RunReport") -> None:
    """Record a run for the predictions of the next ones, if it sampled enough to tell anything."""
    from liveavatar_runtime.planning.observed import ObservedSpeed

    each, first = report.sampled.each, report.measured["first_block_seconds"]
    if key is None or each is None or first is None or each.count < ENOUGH_BLOCKS:
        return
    record(
        ObservedSpeed(
            key=key,
            block_seconds=each.median,
            first_block_seconds=first,
            spread=(each.p90 - each.p10) / 2 / each.median,
            blocks=each.count,
            date=time.strftime("%Y-%m-%d"),
        )
    )


def _prediction(value: "Range") -> Prediction:
    return Prediction(low=value.low, likely=value.likely, high=value.high)
