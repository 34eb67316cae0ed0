"""Part 2: does it fit? The peak of memory against the plan, where the plan says that it fits; where the plan refuses,
one try that should really fail."""

from dataclasses import dataclass, replace
from functools import partial

import torch

from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.dit.placement import ON_DEVICE, Placement
from liveavatar_runtime.errors import MachineError
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.planning.device import Device
from liveavatar_runtime.planning.memory import CacheChoice, choose_placement, ram_bytes, working_bytes
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.sampling.evaluator import PlacedModel

from . import host_memory, models
from .bench import GIB, Bench, OutOfMemory, Peak
from .budget import Step
from .running import latents_of

CLOSE = 0.05
"""The plan may be off by this share of what is used, weights included."""
BLOCKS = 3
"""The reference picture is renewed in the second one, and every step has begun with the new sink in the third."""
TOO_LARGE, LARGEST = (1280, 720), (1920, 1088)
"""Refused even on cards of 141 GB; the second one also with its caches in fp8."""
BF16 = torch.bfloat16
TABLE = "Memory against the plan"
FP8_KV, IN_RAM, BATCHED = Placement("device", "fp8"), Placement("ram"), Placement(batched=True)


@dataclass(frozen=True)
class Case:
    """A size, where the caches are, what the weights are kept as."""

    size: tuple[int, int]
    placement: Placement
    weights: str = "bf16"

    def __str__(self) -> str:
        width, height = self.size
        return f"{width}x{height}, weights in {self.weights}, {self.placement}"

    def planned(self, bench: Bench) -> int:
        """Bytes on the card that the plan says."""
        config = models.large_config(bench)
        plan = models.plan_of(bench, self.size)
        work = Workload(config, plan, BF16, 1.0 if self.weights == "fp8" else BF16.itemsize)
        return work.weights(work.layers) + working_bytes(work, self.placement)


def model_of(bench: Bench, weights: str) -> CausalWanS2V:
    """The large model in bf16 or fp8, random; there is one at a time."""
    other = "model fp8" if weights == "bf16" else "model bf16"
    if other in bench.kept:
        bench.forget(other)
    check_weights(bench, 1.0 if weights == "fp8" else BF16.itemsize)
    kind = "fp8" if weights == "fp8" else "plain"
    return bench.shared(
        f"model {weights}", lambda: models.random_model(models.large_config(bench), BF16, bench.device, kind)
    )


def check_weights(bench: Bench, weight_bytes: float) -> None:
    """Raises MachineError when the large model's weights do not fit: nothing here streams them."""
    config = models.large_config(bench)
    work = Workload(config, models.plan_of(bench, models.main_size(bench)), BF16, weight_bytes)
    needed = work.weights(work.layers)
    if needed > usable(bench):
        raise MachineError(f"the weights take {needed / GIB:.1f} GiB, the card has {usable(bench) / GIB:.1f} to use")


def usable(bench: Bench) -> float:
    return Device(memory=bench.total_memory()).usable


def chosen_placement(bench: Bench, work: Workload, batched: bool, occupied: int = 0) -> Placement:
    """Where the plan puts the caches of the large model on this card: what a user gets. `occupied`: bytes of what else
    must be on the card. Raises MachineError when nothing fits."""
    device = Device(memory=bench.total_memory(), ram=int(0.8 * host_memory.available()), occupied=occupied)
    return choose_placement(work, device, CacheChoice(schedule="batched" if batched else "sequential"))


def measure(bench: Bench, case: Case) -> Peak | OutOfMemory:
    """The peak over a few blocks, weights included."""
    config, model = models.large_config(bench), model_of(bench, case.weights)
    plan = models.plan_of(bench, case.size, infer_frames=12)
    conditions = models.random_conditions(config, plan)

    def run() -> Peak:
        executor = LocalExecutor.placed(PlacedModel(model, bench.device), BF16, case.placement)
        with bench.watched() as peak:
            # A batch holds as many blocks as there are steps.
            blocks = BLOCKS + (plan.steps if case.placement.batched else 0)
            latents_of(executor, conditions, plan, blocks)
        return peak

    bench.empty()
    return bench.attempt(run)


def try_case(bench: Bench, case: Case) -> None:
    """Measures where the plan says that it fits, and where it does not."""
    planned, room = case.planned(bench), usable(bench)
    lacking = _lacking_ram(bench, case)
    if lacking:
        bench.record.skip(f"{case}: {lacking}")
        return
    found = measure(bench, case)
    if case.placement.kv_cache == "ram":
        # Blocks of another size would be pinned beside those that are kept.
        host_memory.give_back(bench)
    if isinstance(found, OutOfMemory):
        _row(bench, case, planned, None, found.message)
        refused = planned > room
        detail = f"planned {planned / GIB:.2f} GiB of {room / GIB:.2f}: {found.message}"
        bench.record.check(f"out of memory only where the plan refuses: {case}", refused, detail, correctness=False)
        return
    _row(bench, case, planned, found, "")
    if found.allocated is None:
        return
    off = planned / found.allocated - 1
    detail = f"planned {planned / GIB:.2f} GiB, {found.allocated / GIB:.2f} used ({off:+.1%})"
    bench.record.check(f"memory within {CLOSE:.0%}: {case}", abs(off) <= CLOSE, detail, correctness=False)
    bench.record.compare(f"memory, {case}", planned / GIB, found.allocated / GIB, "GiB")
    if planned > room:
        _ran_all_the_same(bench, case, found.allocated, room)


def _ran_all_the_same(bench: Bench, case: Case, used: int, room: float) -> None:
    """The plan keeps a share of the card free: what only that share made possible was refused rightly."""
    detail = f"{used / GIB:.2f} GiB were used; the plan may fill {room / GIB:.2f} GiB"
    bench.record.check(f"refused, and needs the reserve: {case}", used > room, detail, correctness=False)


def _lacking_ram(bench: Bench, case: Case) -> str:
    """Why the caches in RAM cannot be tried: pinned memory must never exhaust the machine."""
    config, plan = models.large_config(bench), models.plan_of(bench, case.size)
    needed = ram_bytes(Workload(config, plan, BF16), case.placement)
    there = host_memory.available()
    if needed <= 0.8 * there:
        return ""
    return f"its caches pin {needed / GIB:.0f} GiB of the {there / GIB:.0f} GiB of RAM that are free"


def _row(bench: Bench, case: Case, planned: int, peak: Peak | None, failure: str) -> None:
    config, plan = models.large_config(bench), models.plan_of(bench, case.size)
    allocated = None if peak is None or peak.allocated is None else peak.allocated / GIB
    reserved = None if peak is None or peak.reserved is None else peak.reserved / GIB
    width, height = case.size
    room = usable(bench)
    bench.record.row(
        TABLE,
        size=f"{width}x{height}",
        weights=case.weights,
        caches=str(case.placement),
        **{
            "planned, GiB": planned / GIB,
            "plan says": "fits" if planned <= room else "refused",
            "used, GiB": allocated,
            "planned / used": None if not allocated else planned / GIB / allocated,
            "allocator holds, GiB": reserved,
            "of it caches in RAM, planned, GiB": ram_bytes(Workload(config, plan, BF16), case.placement) / GIB,
            "failure": failure or None,
        },
    )


def weights_alone(bench: Bench) -> None:
    """Making them must not need more than they are."""
    for weights, each in (("bf16", BF16.itemsize), ("fp8", 1.0)):
        bench.forget()
        config = models.large_config(bench)
        planned = Workload(config, models.plan_of(bench, models.main_size(bench)), BF16, each).weights(
            range(config.num_layers)
        )
        with bench.watched() as peak:
            model = model_of(bench, weights)
        held = sum(p.numel() * p.element_size() for p in model.parameters())
        # Otherwise it would be there while the next one is made.
        del model
        bench.record.row(
            "Weights",
            weights=weights,
            **{"planned, GiB": planned / GIB, "held, GiB": held / GIB},
            **{"peak while made, GiB": None if peak.allocated is None else peak.allocated / GIB},
        )
        bench.record.compare(f"weights in {weights}", planned / GIB, held / GIB, "GiB")


def refusals(bench: Bench) -> None:
    """One try where any plan refuses, in case all sizes fit this card."""
    size = models.sizes(bench)[-1] if bench.tiny else TOO_LARGE
    try_case(bench, Case(size, ON_DEVICE))
    if not bench.tiny:
        try_case(bench, Case(LARGEST, replace(FP8_KV, batched=True)))


def cases(bench: Bench, placement: Placement, weights: str, largest: bool = True) -> None:
    for size in models.sizes(bench) if largest else models.sizes(bench)[:-1]:
        try_case(bench, Case(size, placement, weights))


def chosen_cases(bench: Bench) -> None:
    """With the caches where the plan puts them, as far as that is not measured by itself."""
    for size in models.sizes(bench):
        work = Workload(models.large_config(bench), models.plan_of(bench, size), BF16, BF16.itemsize)
        placement = chosen_placement(bench, work, batched=False)
        if placement != ON_DEVICE:
            try_case(bench, Case(size, placement))


STEPS = (
    Step("bf16, caches on the card", 30, partial(cases, placement=ON_DEVICE, weights="bf16")),
    Step("bf16, caches in fp8 on the card", 20, partial(cases, placement=FP8_KV, weights="bf16")),
    Step("bf16, caches where the plan puts them", 25, chosen_cases),
    Step("where the plan refuses", 10, refusals),
    Step("host memory of pinned caches", 25, host_memory.measure),
    Step("fp8, caches on the card", 30, partial(cases, placement=ON_DEVICE, weights="fp8")),
    Step("bf16, all steps in one batch", 25, partial(cases, placement=BATCHED, weights="bf16")),
    Step("weights alone", 10, weights_alone),
    Step("bf16, caches in RAM", 45, partial(cases, placement=IN_RAM, weights="bf16", largest=False)),
)
