"""The memory plan against measured peaks on the processor, for every place of the caches and every executor.

    python -m benchmarks.peaks                       the demo's sizes and a model of 319M, random weights
    python -m benchmarks.peaks --sizes demo          the demo's alone

Each case runs in a process of its own. It samples until the ring is full and the sink has been made anew, first for the
resident memory of the process, then again for the bytes of live tensors (the profiler that counts them takes memory
itself). Both are what sampling adds: the model and the conditions are there before. On a processor caches "in RAM" and
"on the device" are in the same memory, so what is planned is the sum of both, over all stages.

Live tensors may differ from the plan by 10 %. Those of a pipeline's stage are what its thread has allocated, whoever
frees it, and all stages count as if each had a device of its own. Resident memory, of all stages at one time, may
differ by 10 % or 64 MiB: the C library's allocator keeps what is freed.
"""

import argparse
import gc
import json
import platform
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil
import torch

from benchmarks import ROOT
from benchmarks.live_bytes import LiveBytes
from benchmarks.placements import random_conditions, random_model
from liveavatar_runtime.aligned import align_weights
from liveavatar_runtime.config import DEMO, AvatarConfig
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.dit.placement import Placement
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.executors.pipelines import run_told
from liveavatar_runtime.pipeline.schedule import LayerSchedule, PipelineSchedule, TimestepSchedule, split_steps
from liveavatar_runtime.pipeline.stage import FinishedBlock, Result, StageTask
from liveavatar_runtime.pipeline.stage_model import replicate, spread_layers
from liveavatar_runtime.pipeline.threads import PipelineRun, StagePort, StageWorker
from liveavatar_runtime.pipeline.transport import MessageKey, Tensors
from liveavatar_runtime.planning.memory import shared_bytes
from liveavatar_runtime.planning.partition import split_evenly
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.sampling.block_run import BlockRun
from liveavatar_runtime.sampling.conditions import Conditions
from liveavatar_runtime.sampling.evaluator import PlacedModel, cache_maker
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import SamplingRequest

CPU = torch.device("cpu")
MIB = 2**20
MIDDLE = AvatarConfig(dim=1024, ffn_dim=4096, num_heads=8, num_layers=16, audio_inject_layers=(0, 4, 8, 12))
CONFIGS = {"demo": DEMO, "319M": MIDDLE}
DTYPES = {"demo": ("float32",), "319M": ("float32", "bfloat16")}
EXECUTORS = ("local", "layer_pipeline", "timestep_pipeline")
STAGES = 2
PLAN = ClipPlan(num_clip=3, width=64, height=64, keep_aspect=False)
BLOCKS = 5
"""The ring of four is full then, and the second clip's sink, made of the first clip's latents, is in force."""
TOLERANCE, RESIDENT = 0.1, 64 * MIB
"""Of what is planned; bytes that resident memory may be off in any case."""
SAMPLED_EVERY = 0.002
"""Seconds between two looks at the resident memory."""


@dataclass(frozen=True)
class Case:
    """A run to measure; `dtype` of weights, hidden states and caches."""

    size: str
    dtype: str
    executor: str
    placement: Placement
    side: int = PLAN.width

    @property
    def config(self) -> AvatarConfig:
        return CONFIGS[self.size]

    @property
    def plan(self) -> ClipPlan:
        return ClipPlan(num_clip=PLAN.num_clip, width=self.side, height=self.side, keep_aspect=False)

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    @property
    def schedule(self) -> PipelineSchedule:
        if self.executor == "timestep_pipeline":
            return TimestepSchedule(self.config.num_layers, split_steps(self.plan.steps, STAGES))
        stages = STAGES if self.executor == "layer_pipeline" else 1
        return LayerSchedule(split_evenly(self.config.num_layers, stages), self.plan.steps)

    @property
    def works(self) -> list[Workload]:
        """Of the stages."""
        work = Workload(self.config, self.plan, self.torch_dtype)
        schedule = self.schedule
        return [work.of_stage(part.layers, part.steps, schedule.blocks_at_a_stage) for part in schedule.parts]

    @property
    def planned(self) -> int:
        """Bytes of all stages, on the device and in RAM together."""
        return sum(shared_bytes(work, self.placement) for work in self.works)


@dataclass(frozen=True)
class Peaks:
    """Bytes that sampling added at its peak: of live tensors, and resident ones of the process (None: not measured)."""

    live: int
    resident: int | None = None

    def live_fits(self, case: Case) -> bool:
        return abs(self.live - case.planned) <= TOLERANCE * case.planned

    def resident_fits(self, case: Case) -> bool:
        return self.resident is None or abs(self.resident - case.planned) <= max(TOLERANCE * case.planned, RESIDENT)


def placements(config: AvatarConfig, executor: str) -> list[Placement]:
    """Every one that the executor has; pipelines run one step at a time."""
    half = Placement("ram", device_layers=config.num_layers // 2)
    one_by_one = [Placement(place, stored) for place in ("device", "ram") for stored in ("model", "fp8")] + [half]
    if executor != "local":
        # Half of a stage's layers.
        return [*one_by_one[:-1], Placement("ram", device_layers=config.num_layers // 4)]
    return one_by_one + [Placement(p.kv_cache, p.kv_dtype, batched=True) for p in one_by_one[:-1]]


def cases(sizes: list[str], side: int) -> list[Case]:
    return [
        Case(size, dtype, executor, placement, side)
        for size in sizes
        for dtype in DTYPES[size]
        for executor in EXECUTORS
        for placement in placements(CONFIGS[size], executor)
    ]


Run = BlockRun | PipelineRun


def sample(model: CausalWanS2V, conditions: Conditions, case: Case, counter: LiveBytes | None = None) -> None:
    """`BLOCKS` blocks; with a counter, all threads' tensors are counted."""
    request = SamplingRequest(conditions, case.plan)
    with counter.counted() if counter else nullcontext():
        run = _local(model, request, case) if case.executor == "local" else _stages(model, request, case, counter)
        try:
            for _ in range(BLOCKS):
                next(run)
        finally:
            run.close()


def _local(model: CausalWanS2V, request: SamplingRequest, case: Case) -> BlockRun:
    return LocalExecutor.placed(PlacedModel(model, CPU), case.torch_dtype, case.placement).run(request)


def _stages(model: CausalWanS2V, request: SamplingRequest, case: Case, counter: LiveBytes | None) -> PipelineRun:
    """As the executors run them, each in a thread that enters the counter."""
    schedule, caches = case.schedule, cache_maker(case.placement)
    if case.executor == "layer_pipeline":
        places = spread_layers(model, [part.layers for part in schedule.parts], [CPU] * STAGES)
    else:
        places = replicate(model, [CPU] * STAGES)
    task = StageTask(request, schedule, case.torch_dtype, caches, case.placement)

    def worker(number: int, place: PlacedModel) -> StageWorker:
        def work(port: StagePort) -> None:
            if counter is None:
                run_told(number, place, task, port, port)
                return
            counted = CountedPort(port, counter)
            with counter.counted():
                run_told(number, place, task, counted, counted)

        return StageWorker(place.device, work)

    for place in places:
        align_weights(place.model, place.device)
    return PipelineRun([worker(number, place) for number, place in enumerate(places)], task)


class CountedPort(StagePort):
    """One whose stage is counted: it tells what leaves the stage."""

    def __init__(self, port: StagePort, counter: LiveBytes) -> None:
        super().__init__(port.number, port.device, port.links)
        self._counter = counter

    def deliver(self, stage: int, key: MessageKey, tensors: Tensors) -> None:
        self._counter.hand_over(tensors.values())
        super().deliver(stage, key, tensors)

    def put(self, result: Result) -> None:
        if isinstance(result, FinishedBlock):
            self._counter.hand_over([result.latents])
        super().put(result)


@contextmanager
def watched(found: list[int]) -> Iterator[None]:
    """Appends the resident memory of this process while it is open, the first before anything is done."""
    process, over = psutil.Process(), threading.Event()
    found.append(process.memory_info().rss)

    def watch() -> None:
        while not over.wait(SAMPLED_EVERY):
            found.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def made(case: Case) -> tuple[CausalWanS2V, Conditions]:
    """Of random numbers."""
    torch.manual_seed(0)
    with torch.inference_mode():
        return random_model(case.config, case.torch_dtype, CPU), random_conditions(case.config, case.plan)


def live_peak(case: Case) -> Peaks:
    """Without resident memory, in this process."""
    counter = LiveBytes()
    sample(*made(case), case, counter)
    return Peaks(counter.peak())


def measure(case: Case) -> Peaks:
    """Both, for which this process must be new."""
    torch.set_num_threads(1)
    # What is imported and set up at first use is not what is measured.
    warm_up = replace(case, size="demo", side=PLAN.width, placement=Placement(case.placement.kv_cache))
    sample(*made(warm_up), warm_up)
    model, conditions = made(case)
    gc.collect()
    resident: list[int] = []
    with watched(resident):
        sample(model, conditions, case)
    counter = LiveBytes()
    sample(model, conditions, case, counter)
    return Peaks(counter.peak(), max(resident) - resident[0])


def measure_apart(number: int, sizes: list[str], side: int) -> Peaks:
    """`measure` of a case in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.peaks", "--sizes", *sizes, "--side", str(side), "--case", str(number)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
    return Peaks(**json.loads(output.splitlines()[-1]))


HEADER = (
    "| model | executor | placement | planned | live tensors | of planned | met | resident | of planned | met |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
)


def row(case: Case, peaks: Peaks) -> str:
    planned, resident = case.planned, peaks.resident
    cells = [f"{case.size} {case.dtype}", case.executor, str(case.placement), f"{planned / MIB:.1f}"]
    cells += [f"{peaks.live / MIB:.1f}", f"{peaks.live / planned:.2f}", _met(peaks.live_fits(case))]
    if resident is not None:
        cells += [f"{resident / MIB:.1f}", f"{resident / planned:.2f}", _met(peaks.resident_fits(case))]
    return f"| {' | '.join(cells)} |"


def _met(fits: bool) -> str:
    return "yes" if fits else "**no**"


def report(rows: list[str], side: int) -> str:
    told = (__doc__ or "").split("\n\n")[2:]
    head = f"By `python -m benchmarks.peaks`, {side}x{side}, {PLAN.steps} steps, {BLOCKS} blocks, one thread a stage, "
    head += f"PyTorch {torch.__version__} on {platform.system()}; MiB."
    left = "FSDP, whose ranks are processes that gather layers, is measured by `benchmarks.fsdp_peaks`: fsdp_peaks.md."
    lines = [
        "# Memory plan against measured peaks",
        "",
        head,
        "",
        *"\n\n".join(told).strip().splitlines(),
        "",
        left,
        "",
    ]
    return "\n".join([*lines, *HEADER, *rows]) + "\n"


def main(arguments: list[str] | None = None, write: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(CONFIGS), default=list(CONFIGS))
    parser.add_argument("--side", type=int, default=PLAN.width, help="pixels")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "peaks.md")
    parser.add_argument("--case", type=int, help="measure one case in this process, print JSON")
    options = parser.parse_args(arguments)
    every = cases(options.sizes, options.side)
    if options.case is not None:
        write(json.dumps(asdict(measure(every[options.case]))))
        return
    rows = []
    for line in HEADER:
        write(line)
    for number, case in enumerate(every):
        rows.append(row(case, measure_apart(number, options.sizes, options.side)))
        write(rows[-1])
    options.output.write_text(report(rows, options.side), encoding="utf-8")


if __name__ == "__main__":
    main()
