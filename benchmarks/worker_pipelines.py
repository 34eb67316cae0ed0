"""Speed of the executors in worker processes against one process: `python -m benchmarks.worker_pipelines`.

The model and the plan are those of `benchmarks/pipelines.py`, and so is what it prints. Each rank has one thread. On
one machine FSDP computes everything on every rank: it saves memory, not time.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.pipelines import CONFIG, CPU, PLAN, Timed, predict, random_conditions, random_model, time_run
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.pipeline.schedule import LayerSchedule, TimestepSchedule, split_steps
from liveavatar_runtime.planning.partition import split_evenly
from liveavatar_workers.client.executor import RemoteExecutor
from liveavatar_workers.client.groups import LocalWorkers


def save_model(folder: str) -> None:
    weights = {name: tensor.contiguous() for name, tensor in random_model().state_dict().items()}
    save_file(weights, Path(folder) / "diffusion_pytorch_model.safetensors")
    (Path(folder) / "config.json").write_text(json.dumps(CONFIG.to_dict()))


def main(arguments: list[str] | None = None, write: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clips", type=int, default=PLAN.num_clip)
    parser.add_argument("--executors", nargs="+", default=["layer_pipeline", "timestep_pipeline", "fsdp"])
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    plan = replace(PLAN, num_clip=options.clips)
    conditions, local = random_conditions(plan), LocalExecutor(random_model(), CPU, torch.float32)
    schedules = {
        "layer_pipeline": LayerSchedule(split_evenly(CONFIG.num_layers, options.ranks), plan.steps),
        "timestep_pipeline": TimestepSchedule(CONFIG.num_layers, split_steps(plan.steps, options.ranks)),
    }
    what = f"{plan.num_blocks} blocks, medians of {options.repeats} pairs of runs"
    write(f"{options.ranks} ranks, one thread each; {what}\n")
    write("| executor | seconds a block | times as fast | simulator | simulator / measured |")
    write("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        save_model(folder)
        for name in options.executors:
            devices = ",".join(["cpu"] * options.ranks)
            workers = LocalWorkers(options.ranks, ["--model", folder, "--executor", name, "--devices", devices])
            alone: list[Timed] = []
            shared: list[Timed] = []
            workers.connection(lambda: None)
            for _ in range(options.repeats):
                alone.append(time_run(local, conditions, plan))
                shared.append(time_run(RemoteExecutor(workers), conditions, plan))
                assert torch.equal(alone[-1].latents, shared[-1].latents)
            workers.close()
            # The machine's speed changes: what is compared ran one after the other.
            pairs = list(zip(alone, shared, strict=True))
            single, pace = (statistics.median(run.pace for run in runs) for runs in (alone, shared))
            faster = statistics.median(one.pace / two.pace for one, two in pairs)
            forecast = "- | -"
            if name in schedules:
                predicted = [predict(schedules[name], plan, one) for one in alone]
                ratio = statistics.median(time / two.pace for time, two in zip(predicted, shared, strict=True))
                forecast = f"{statistics.median(predicted):.3f} | {ratio:.2f}"
            write(f"| {name} | {pace:.3f} (alone {single:.3f}) | {faster:.2f} | {forecast} |")


if __name__ == "__main__":
    main()
