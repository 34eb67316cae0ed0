"""Worker processes under stress, on the processor: every way to fail several times, and many prompts in a row.

`python -m benchmarks.failures` prints, for each way, the longest time from the last sign of life until the run had
ended with its reason and until no process was left; then what processes, descriptors and memory grew by over the
prompts. Each run after a failure is compared with the same run in one process, bit for bit.
"""

import argparse
import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import failing_worker
import psutil
import torch
from tiny_avatar import PLAN, random_conditions, random_model
from worker_group import FAILING, gone, local_workers, open_descriptors, processes_below, save_model

from liveavatar_runtime.errors import MachineError
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.sampling.run import (
    Evaluation,
    LatentBlock,
    RunStart,
    SamplingRequest,
)
from liveavatar_workers.client.executor import RemoteExecutor
from liveavatar_workers.client.groups import LocalWorkers

WAYS = {
    "rank 1 raises": failing_worker.RAISES,
    "rank 1 is killed": failing_worker.KILLED,
    "rank 0 is killed": failing_worker.DIVES,
    "rank 1 is stopped": failing_worker.STOPPED,
    "rank 1 hangs": failing_worker.HANGS,
}
CPU = torch.device("cpu")


class Cancel(Exception):
    """The user presses the button."""


@dataclass(frozen=True)
class Failed:
    """Seconds until the reason was told, and until all processes were gone; whether the next run was exact."""

    told: float
    gone: float
    exact: bool


def fail_once(workers: LocalWorkers, seed: int) -> Failed:
    """One failing run, and one that continues it."""
    executor, conditions, plan = RemoteExecutor(workers), random_conditions(), replace(PLAN, seed=seed)
    finished: list[LatentBlock] = []
    alive = [time.monotonic()]

    def after_step(_: Evaluation) -> None:
        alive.append(time.monotonic())

    try:
        run = executor.run(SamplingRequest(conditions, plan, after_step=after_step, keep_rings=lambda _: True))
        finished.extend(run)
    except MachineError as error:
        told = time.monotonic() - alive[-1]
        print(f"    {told:4.1f} s: {str(error).splitlines()[0]}", flush=True)
    else:
        raise AssertionError("the run did not fail")
    while not gone(processes_below()):
        time.sleep(0.02)
    ended = time.monotonic() - alive[-1]
    start = RunStart(len(finished), {0: finished[0].latents[:, :1]}, finished[-1].rings)
    return Failed(told, ended, same([*finished, *executor.run(SamplingRequest(conditions, plan, start))], plan.seed))


def cancel_once(workers: LocalWorkers, seed: int) -> Failed:
    """One run that is cancelled in the middle of a block, and another one; the workers stay."""
    executor, conditions, plan = RemoteExecutor(workers), random_conditions(), replace(PLAN, seed=seed)

    def after_step(evaluation: Evaluation) -> None:
        if evaluation.block == 1:
            raise Cancel

    begin = time.monotonic()
    try:
        list(executor.run(SamplingRequest(conditions, plan, after_step=after_step)))
    except Cancel:
        begin = time.monotonic()
    first = next(executor.run(SamplingRequest(conditions, plan)))
    waited = time.monotonic() - begin
    return Failed(
        waited, waited, first.index == 0 and same(list(executor.run(SamplingRequest(conditions, plan))), seed)
    )


def same(blocks: list[LatentBlock], seed: int) -> bool:
    """Whether the blocks equal those of one process."""
    plan = replace(PLAN, seed=seed)
    expected = LocalExecutor(random_model(), CPU, torch.float32).run(SamplingRequest(random_conditions(), plan))
    return all(torch.equal(one.latents, other.latents) for one, other in zip(blocks, expected, strict=True))


@dataclass(frozen=True)
class Held:
    """What this process and its workers hold."""

    processes: int
    descriptors: int
    threads: int
    megabytes: float

    @classmethod
    def now(cls) -> "Held":
        own = psutil.Process(os.getpid())
        family = [own, *own.children(recursive=True)]
        descriptors = open_descriptors() + sum(process.num_fds() for process in family[1:])
        memory = sum(process.memory_info().rss for process in family) / 2**20
        return cls(len(family), descriptors, sum(process.num_threads() for process in family), memory)


def many_prompts(workers: LocalWorkers, prompts: int) -> None:
    executor, plan = RemoteExecutor(workers), replace(PLAN, num_clip=1)
    for number in range(1, prompts + 1):
        list(executor.run(SamplingRequest(random_conditions(plan=plan), replace(plan, seed=number))))
        # The first ones fill the caches of the allocators.
        if number in (1, 5, prompts // 2, prompts):
            print(f"  after {number:3} prompts: {Held.now()}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5, help="runs of each way to fail")
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--executor", default="fsdp", choices=["fsdp", "layer_pipeline", "timestep_pipeline"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        model = save_model(Path(folder))
        plain = local_workers(model, 2, "--executor", options.executor)
        many_prompts(plain, options.prompts)
        cancelled = [cancel_once(plain, 100 + number) for number in range(options.times)]
        plain.close()
        results = {"cancel": cancelled}
        failing = local_workers(model, 2, "--stall-timeout", "3", "--executor", options.executor, program=FAILING)
        for way, seed in WAYS.items():
            results[way] = [fail_once(failing, seed) for _ in range(options.times)]
        failing.close()
    for way, failed in results.items():
        told, ended = max(f.told for f in failed), max(f.gone for f in failed)
        exact = all(f.exact for f in failed)
        print(f"{way:20} {len(failed)} times: told within {told:.1f} s, gone within {ended:.1f} s, next run {exact=}")


if __name__ == "__main__":
    main()
