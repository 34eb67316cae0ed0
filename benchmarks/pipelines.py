"""Speed of the pipelines against one stage: `python -m benchmarks.pipelines`.

A random transformer that is busy with arithmetic runs on the CPU, each stage with one thread, so that two stages can be
twice as fast as one on two free cores. All executors take turns, and what the simulator predicts from the times of the
single stage is printed beside what was measured.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from liveavatar_runtime.config import AvatarConfig
from liveavatar_runtime.dit.model import CausalWanS2V
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.executors.pipelines import LayerPipelineExecutor, TimestepPipelineExecutor
from liveavatar_runtime.pipeline.schedule import LayerSchedule, PipelineSchedule, Span, TimestepSchedule, split_steps
from liveavatar_runtime.pipeline.stage_model import replicate, spread_layers
from liveavatar_runtime.planning.partition import split_evenly
from liveavatar_runtime.planning.simulator import Costs, simulate, steady_pace
from liveavatar_runtime.planning.workload import Workload
from liveavatar_runtime.sampling.conditions import Conditions
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import (
    Executor,
    SamplingRequest,
)

CPU = torch.device("cpu")
CONFIG = AvatarConfig(
    dim=512,
    ffn_dim=1536,
    num_heads=4,
    num_layers=8,
    audio_inject_layers=(0, 2, 4, 6),
    audio_dim=32,
    text_dim=64,
    text_len=64,
)
PLAN = ClipPlan(num_clip=4, infer_frames=48, width=128, height=128, keep_aspect=False)

FREE = 0.9
"""Share of a core that one stage must get for the times to mean something."""


@dataclass(frozen=True)
class Silence:
    def frames(self, first: int, count: int) -> Tensor:
        return torch.zeros(1, CONFIG.audio_layers, CONFIG.audio_dim, count)


def random_model() -> CausalWanS2V:
    generator = torch.Generator().manual_seed(0)
    model = CausalWanS2V(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = (0.5 / max(1, parameter[0].numel())) ** 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
    return model.eval().requires_grad_(False)


def random_conditions(plan: ClipPlan) -> Conditions:
    generator = torch.Generator().manual_seed(1)
    height, width = plan.latent_size
    return Conditions(
        text=torch.randn(8, CONFIG.text_dim, generator=generator),
        reference=torch.randn(16, 1, height, width, generator=generator),
        motion=torch.randn(16, 19, height, width, generator=generator),
        audio=Silence(),
    )


@dataclass(frozen=True)
class Timed:
    """Seconds after the start at which each block was there, its latents, and the time of all threads together."""

    blocks: tuple[float, ...]
    latents: Tensor
    work: float = 0.0

    @property
    def pace(self) -> float:
        return steady_pace(self.blocks)


def time_run(executor: Executor, conditions: Conditions, plan: ClipPlan) -> Timed:
    started, before = time.perf_counter(), time.process_time()
    times, latents = [], []
    for block in executor.run(SamplingRequest(conditions, plan)):
        times.append(time.perf_counter() - started)
        latents.append(block.latents)
    return Timed(tuple(times), torch.stack(latents), time.process_time() - before)


def predict(schedule: PipelineSchedule, plan: ClipPlan, local: Timed) -> float:
    """Seconds a block, from one stage's pace split by operations; links within a process take no time worth naming."""
    work = Workload(CONFIG, plan, torch.float32)
    whole = sum(work.layer_flops(layer) for layer in range(CONFIG.num_layers))
    shares = [sum(work.layer_flops(layer) for layer in part.layers) / whole for part in schedule.parts]
    evaluation = local.pace / plan.steps
    sink = evaluation * CONFIG.num_layers * work.sink_layer_flops() / whole
    costs = Costs(evaluate=[evaluation * share for share in shares], sink=[sink * share for share in shares])
    return simulate(schedule, Span.of(plan, 0), costs).seconds_per_block


@dataclass(frozen=True)
class Candidate:
    name: str
    executor: Executor
    schedule: PipelineSchedule


def candidates(model: CausalWanS2V, plan: ClipPlan, stages: int) -> list[Candidate]:
    layers, devices = split_evenly(CONFIG.num_layers, stages), [CPU] * stages
    by_layers = LayerPipelineExecutor(spread_layers(model, layers, devices), layers, torch.float32)
    by_steps = TimestepPipelineExecutor(replicate(model, devices), torch.float32)
    steps = split_steps(plan.steps, stages)
    return [
        Candidate("layer_pipeline", by_layers, LayerSchedule(layers, plan.steps)),
        Candidate("timestep_pipeline", by_steps, TimestepSchedule(CONFIG.num_layers, steps)),
    ]


def main(arguments: list[str] | None = None, write: Callable[[str], None] = print) -> list[float]:
    """Prints a table; returns the throughput of each pipeline relative to one stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clips", type=int, default=PLAN.num_clip)
    options = parser.parse_args(arguments)
    # Stages share the threads of the process, so each has one; the single stage is run with one as well.
    plan, model = replace(PLAN, num_clip=options.clips), random_model()
    conditions, local = random_conditions(plan), LocalExecutor(model, CPU, torch.float32)
    pipelines = candidates(model, plan, options.stages)
    runs: dict[str, list[Timed]] = {name: [] for name in ("local", *(p.name for p in pipelines))}
    for _ in range(options.repeats):
        torch.set_num_threads(1)
        runs["local"].append(time_run(local, conditions, plan))
        for pipeline in pipelines:
            runs[pipeline.name].append(time_run(pipeline.executor, conditions, plan))
            assert torch.equal(runs[pipeline.name][-1].latents, runs["local"][-1].latents)
    single = statistics.median(run.pace for run in runs["local"])
    write(f"{options.stages} stages, one thread each; {plan.num_blocks} blocks, median of {options.repeats} runs\n")
    work = statistics.median(run.work for run in runs["local"])
    write("| executor | seconds a block | times as fast | simulator | simulator / measured | work, one stage = 1 |")
    write("| --- | --- | --- | --- | --- | --- |")
    write(f"| local | {single:.3f} | 1.00 | - | - | 1.00 |")
    ratios = []
    for pipeline in pipelines:
        own = runs[pipeline.name]
        pace = statistics.median(run.pace for run in own)
        predicted = predict(pipeline.schedule, plan, min(runs["local"], key=lambda run: abs(run.pace - single)))
        ratios.append(single / pace)
        forecast = f"{predicted:.3f} | {predicted / pace:.2f}"
        more = statistics.median(run.work for run in own) / work
        write(f"| {pipeline.name} | {pace:.3f} | {single / pace:.2f} | {forecast} | {more:.2f} |")
    core = work / statistics.median(run.blocks[-1] for run in runs["local"])
    if core < FREE:
        write(f"\nThe machine is busy: one stage got {core:.0%} of a core, so only the last column tells something.")
    return ratios


if __name__ == "__main__":
    main()
