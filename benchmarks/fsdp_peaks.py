"""Executor fsdp on two processes of this machine: what each rank takes beside its part, against the plan.

    python -m benchmarks.fsdp_peaks                  the demo's sizes and a model of 319M, random weights

As `benchmarks.peaks`, whose cases these are; the ranks talk over gloo. A rank's part of the weights is there before.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultAllGather

from benchmarks import ROOT
from benchmarks.live_bytes import LiveBytes
from benchmarks.peaks import CONFIGS, CPU, HEADER, Case, Peaks, made, row, sample, watched
from liveavatar_runtime.dit.placement import Placement
from liveavatar_runtime.executors.groups import gathered_bytes
from liveavatar_runtime.planning.memory import shared_bytes
from liveavatar_runtime.planning.workload import Workload
from liveavatar_workers.rank.fsdp import shard

RANKS = 2
PLACEMENTS = (Placement(), Placement("device", "fp8"), Placement("ram"))


class FsdpCase(Case):
    """One of a rank: it samples as executor local does, with weights that it gathers."""

    @property
    def planned(self) -> int:
        """Bytes beside the rank's part."""
        work = Workload(self.config, self.plan, self.torch_dtype, self.torch_dtype.itemsize)
        return shared_bytes(work, self.placement) + gathered_bytes(work)


def cases(sizes: Sequence[str]) -> list[FsdpCase]:
    return [FsdpCase(size, "float32", "local", placement) for size in sizes for placement in PLACEMENTS]


class CountedAllGather(DefaultAllGather):
    """Tells the counter of what it gathers into: gloo's threads may be the last to hold it."""

    def __init__(self, counter: LiveBytes) -> None:
        self._counter = counter

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        gathered = super().allocate(size, dtype=dtype, device=device)
        self._counter.hand_over([gathered])
        return gathered


def measure(case: FsdpCase, number: int, store: Path) -> Peaks:
    """In a rank's process, which must be new."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store.as_uri(), rank=number, world_size=RANKS)
    mesh = init_device_mesh(CPU.type, (RANKS,))
    warm_up = FsdpCase("demo", "float32", "local", Placement(case.placement.kv_cache))
    model, conditions = made(warm_up)
    sample(shard(model, mesh), conditions, warm_up)
    model, conditions = made(case)
    model = shard(model, mesh)
    gc.collect()
    resident: list[int] = []
    with watched(resident):
        sample(model, conditions, case)
    counter = LiveBytes()
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_custom_all_gather(CountedAllGather(counter))
    sample(model, conditions, case, counter)
    dist.destroy_process_group()
    return Peaks(counter.peak(), max(resident) - resident[0])


def measure_ranks(number: int, sizes: Sequence[str]) -> list[Peaks]:
    """Of each rank in turn."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        command = [sys.executable, "-m", "benchmarks.fsdp_peaks", "--sizes", *sizes, "--store", str(store)]
        start = partial(subprocess.Popen, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        ranks = [start([*command, "--case", str(number), "--rank", str(rank)]) for rank in range(RANKS)]
        outputs = [rank.communicate()[0] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        raise SystemExit("a rank has failed; it says above why")
    return [Peaks(**json.loads(output.splitlines()[-1])) for output in outputs]


def main(arguments: list[str] | None = None, write: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(CONFIGS), default=list(CONFIGS))
    parser.add_argument("--case", type=int, help="measure one case as one rank in this process, print JSON")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--store", type=Path, help="a file that the ranks find each other by")
    options = parser.parse_args(arguments)
    every = cases(options.sizes)
    if options.case is not None:
        write(json.dumps(asdict(measure(every[options.case], options.rank, options.store))))
        return
    for line in HEADER:
        write(line)
    for number, case in enumerate(every):
        for rank, found in enumerate(measure_ranks(number, options.sizes)):
            write(row(case, found).replace("| local |", f"| fsdp, rank {rank} of {RANKS} |"))


if __name__ == "__main__":
    main()
