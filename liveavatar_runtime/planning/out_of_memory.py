"""A device that is full while it works: told with the settings that free the most."""

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ..device_kinds import shares_ram
from ..dit.placement import Placement
from ..out_of_memory import CPU, _others, full_device_told
from ..texts import gib
from .memory import cheaper_plans, ram_bytes, working_bytes
from .workload import Workload

if TYPE_CHECKING:
    from ..sampling.plan import ClipPlan

NEAR = 0.01
"""Ways that free less than this share of what is needed are left out."""


def sampling_told(work: Workload, placement: Placement, device: torch.device) -> AbstractContextManager[None]:
    """`full_device_told` for sampling with the caches at a placement."""
    plan = work.plan
    return full_device_told(
        f"sampling {plan.width}x{plan.height} in {plan.steps} steps",
        device,
        lambda: sampling_ways(work, placement, device),
        lambda: ram_ways(work, placement),
    )


def sampling_ways(work: Workload, placement: Placement, device: torch.device) -> list[str]:
    """Settings that free memory of the device, those that free the most first."""

    def needed(changed: "ClipPlan", placed: Placement) -> int:
        of_change = replace(work, plan=changed)
        # Caches in RAM are then on the device as well.
        in_ram = ram_bytes(of_change, placed) if shares_ram(device) else 0
        return working_bytes(of_change, placed) + in_ram

    plan, now = work.plan, needed(work.plan, placement)
    ways = [(needed(changed, placement), f"{name} in Clip Scheduler") for name, changed in cheaper_plans(plan)]
    in_ram = replace(placement, kv_cache="ram", device_layers=0)
    in_fp8 = replace(placement, kv_dtype="fp8", device_layers=0)
    placements = [("kv_dtype fp8", in_fp8), ("schedule sequential", replace(placement, batched=False))]
    if not shares_ram(device):
        placements.append(("kv_cache ram", in_ram))
    ways += [(needed(plan, placed), f"{name} in DiT Sampler") for name, placed in placements]
    return [*_ranked(now, ways, "{name} ({then} beside the weights instead of {now})"), _others(device)]


def ram_ways(work: Workload, placement: Placement) -> list[str]:
    """Settings that free RAM while another device samples, those that free the most first."""

    def needed(changed: "ClipPlan", placed: Placement) -> int:
        return ram_bytes(replace(work, plan=changed), placed)

    plan = work.plan
    ways = [(needed(changed, placement), f"{name} in Clip Scheduler") for name, changed in cheaper_plans(plan)]
    placements = [
        ("kv_cache device", replace(placement, kv_cache="device", device_layers=0)),
        ("kv_dtype fp8", replace(placement, kv_dtype="fp8", device_layers=0)),
    ]
    ways += [(needed(plan, placed), f"{name} in DiT Sampler") for name, placed in placements]
    return [
        *_ranked(needed(plan, placement), ways, "{name} ({then} of RAM instead of {now})"),
        "state_budget 0 in DiT Sampler",
        _others(CPU),
    ]


def _ranked(now: int, ways: list[tuple[int, str]], words: str) -> list[str]:
    """Those that free memory, in `words` with what would be needed then; those that free the most first."""
    freeing = sorted((then, name) for then, name in ways if now - then > NEAR * now)
    return [words.format(name=name, then=gib(then), now=gib(now)) for then, name in freeing]
