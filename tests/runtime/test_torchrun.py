"""torchrun ends all ranks as soon as one has ended: whatever is seen first, ComfyUI is told which one that was."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import failing_worker
import psutil
import pytest
from comfy_server import free_port
from safetensors.torch import save_file
from tiny_avatar import PLAN, random_conditions
from worker_group import FAILING, end_processes, gone, save_model, wait_until

from liveavatar_runtime.errors import MachineError
from liveavatar_runtime.sampling.run import SamplingRequest
from liveavatar_runtime.vae import VaeConfig, WanVAE
from liveavatar_workers.client.executor import RemoteExecutor
from liveavatar_workers.client.groups import PACK_ROOT, RANK_0_GONE, RemoteWorkers
from liveavatar_workers.keys import make_files, read_pair

LIMIT = 60.0
LONG = replace(PLAN, num_clip=1000)
"""No run gets to its end."""
SILENT, GONE = "hangs or is out of reach: nothing was heard of it for 3 s", "ended without a word, as when it is killed"


@dataclass(frozen=True)
class Group:
    """Two ranks that sample and one that decodes, which torchrun starts again; and ComfyUI's side."""

    torchrun: psutil.Process
    workers: RemoteWorkers

    def rank(self, number: int) -> psutil.Process:
        below = (process for process in self.torchrun.children() if process.environ().get("RANK") == str(number))
        return next(below)

    def told(self, happens: Callable[[], None], seed: int = 0) -> str:
        """What ends a run in which something happens after its first block."""
        run = RemoteExecutor(self.workers).run(SamplingRequest(random_conditions(), replace(LONG, seed=seed)))
        next(run)
        happens()
        with pytest.raises(MachineError) as told:
            list(run)
        return str(told.value)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_model(tmp_path_factory.mktemp("model"))
    vae = WanVAE(VaeConfig(dim=8, num_res_blocks=1))
    save_file({name: tensor.contiguous() for name, tensor in vae.state_dict().items()}, folder / "vae.safetensors")
    return folder


@pytest.fixture(scope="module")
def group(model: Path) -> Iterator[Group]:
    for name in ("studio", "comfyui"):
        make_files(model / name)
    port = free_port()
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", "3"]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(free_port()), "--max-restarts", "100"]
    command += [str(FAILING), "--model", str(model), "--executor", "layer_pipeline", "--devices", "cpu"]
    command += ["--vae", str(model / "vae.safetensors"), "--listen", f"127.0.0.1:{port}"]
    command += ["--key", str(model / "studio.key"), "--clients", str(model / "comfyui.pub")]
    paths = os.pathsep.join([str(PACK_ROOT), str(FAILING.parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment)
    own, theirs = read_pair(model / "comfyui.key"), read_pair(model / "studio.key")
    workers = RemoteWorkers(("127.0.0.1", port), own, theirs.public, connect_timeout=180)
    yield Group(psutil.Process(process.pid), workers)
    workers.close()
    end_processes(process)


def assert_told_of(told: str, rank: int, *reasons: str) -> None:
    """One of the reasons, of this rank and of no other one."""
    first = told.splitlines()[0]
    assert first.startswith(f"The workers ended: rank {rank} (cpu on ") and first.count("rank ") == 1, told
    assert first.endswith(tuple(f": {reason}." for reason in reasons)), told


def test_the_next_run_works(group: Group) -> None:
    next(RemoteExecutor(group.workers).run(SamplingRequest(random_conditions(), LONG)))


def test_a_rank_that_is_killed_is_told(group: Group) -> None:
    # Mostly rank 0 sees its end first, by a connection that is closed: torchrun looks ten times a second.
    assert_told_of(group.told(lambda: group.rank(1).kill()), 1, GONE, SILENT)
    test_the_next_run_works(group)


def test_it_is_told_when_the_end_of_all_ranks_is_seen_first(group: Group) -> None:
    def kill_unseen() -> None:
        leader, other = group.rank(0), group.rank(1)
        leader.suspend()
        group.rank(2).kill()
        wait_until(lambda: gone({other.pid}), LIMIT)
        leader.resume()

    assert_told_of(group.told(kill_unseen), 2, GONE)
    test_the_next_run_works(group)


def test_nobody_is_left_to_tell_of_rank_0(group: Group) -> None:
    told = group.told(lambda: group.rank(0).kill())
    assert told.startswith(f"The workers ended: {RANK_0_GONE}.")
    test_the_next_run_works(group)


def test_a_rank_that_raises_is_told_with_its_traceback(group: Group) -> None:
    told = group.told(lambda: None, failing_worker.RAISES)
    assert_told_of(told, 1, "ValueError: the tensor is made of cheese")
    assert "failing_worker.py" in told
    test_the_next_run_works(group)


def test_an_end_that_somebody_has_asked_torchrun_for_is_told(group: Group) -> None:
    told = group.told(lambda: group.torchrun.send_signal(signal.SIGTERM))
    assert_told_of(told, 0, "was told to end (SIGTERM), as all other ranks were")
