"""Workers that fail: each way ends the run in time with its reason, leaves nothing behind, and the next run works."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import failing_worker
import psutil
import pytest
import torch
from tiny_avatar import PLAN, random_conditions, random_model
from worker_group import FAILING, end_processes, gone, local_workers, processes_below, save_model, wait_until

from liveavatar_runtime.errors import MachineError
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.sampling.run import Evaluation, LatentBlock, RunStart, SamplingRequest
from liveavatar_workers.client.executor import RemoteExecutor
from liveavatar_workers.client.groups import PACK_ROOT, LocalWorkers

StartWorkers = Callable[..., LocalWorkers]
LIMIT = 60.0
"""Seconds in which a failure must be told and everything be gone."""


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def groups(model_folder: Path) -> Iterator[Callable[[str], LocalWorkers]]:
    """A group of failing workers for each executor."""
    made: dict[str, LocalWorkers] = {}

    def group(executor: str) -> LocalWorkers:
        if executor not in made:
            arguments = ("--stall-timeout", "3", "--executor", executor)
            made[executor] = local_workers(model_folder, 2, *arguments, program=FAILING)
        return made[executor]

    yield group
    for workers in made.values():
        workers.close()


@pytest.fixture
def ended() -> Callable[[], float]:
    """Waits until no process is left of those that were started during the test."""
    before = processes_below()
    return lambda: wait_until(lambda: gone(processes_below() - before), LIMIT)


RAISES = (failing_worker.RAISES, 1, r"ValueError: the tensor is made of cheese[\s\S]*failing_worker.py")
KILLED = (failing_worker.KILLED, 1, r"was killed \(SIGKILL\)")
DIVES = (failing_worker.DIVES, 0, r"was killed \(SIGKILL\)")
STOPPED = (failing_worker.STOPPED, 1, r"nothing was heard of it for 3 s")
HANGS = (failing_worker.HANGS, 1, r"made no progress for 3.0 s[\s\S]*time.sleep\(1000\)")


@pytest.mark.parametrize(
    ("executor", "seed", "rank", "reason"),
    [
        pytest.param("fsdp", *RAISES, id="fsdp_raises"),
        pytest.param("fsdp", *KILLED, id="fsdp_killed"),
        pytest.param("fsdp", *DIVES, id="fsdp_rank_0_killed"),
        pytest.param("fsdp", *STOPPED, id="fsdp_stopped"),
        pytest.param("fsdp", *HANGS, id="fsdp_hangs"),
        pytest.param("layer_pipeline", *HANGS, id="layer_pipeline_hangs"),
    ],
)
def test_a_failing_rank_is_named_and_the_next_run_continues(
    groups: Callable[[str], LocalWorkers], executor: str, seed: int, rank: int, reason: str
) -> None:
    workers, conditions, plan = groups(executor), random_conditions(), replace(PLAN, seed=seed)
    remote = RemoteExecutor(workers)
    finished: list[LatentBlock] = []
    last_step = time.monotonic()

    processes: set[int] = set()

    def after_step(evaluation: Evaluation) -> None:
        nonlocal last_step
        last_step = time.monotonic()
        if not processes and workers.pid is not None:
            processes.update({workers.pid}, processes_below(workers.pid))

    run = remote.run(SamplingRequest(conditions, plan, after_step=after_step, keep_rings=lambda block: True))
    with pytest.raises(MachineError, match=rf"rank {rank} .*{reason}"):
        finished.extend(run)
    assert time.monotonic() - last_step < LIMIT
    assert workers.pid is None and len(processes) == 3
    wait_until(lambda: gone(processes), LIMIT)
    assert 1 <= len(finished) <= failing_worker.FAILING_BLOCK
    start = RunStart(len(finished), {0: finished[0].latents[:, :1]}, finished[-1].rings)
    rest = list(remote.run(SamplingRequest(conditions, plan, start)))
    expected = LocalExecutor(random_model(), torch.device("cpu"), torch.float32).run(SamplingRequest(conditions, plan))
    for one, other in zip([*finished, *rest], expected, strict=True):
        assert torch.equal(one.latents, other.latents)


def test_a_rank_that_never_arrives_is_named(
    start_workers: StartWorkers, model_folder: Path, monkeypatch: pytest.MonkeyPatch, ended: Callable[[], float]
) -> None:
    monkeypatch.setenv(failing_worker.ABSENT, "1")
    group = start_workers(model_folder, 2, "--join-timeout", "2", program=FAILING)
    with pytest.raises(MachineError, match=r"rank 1 of 2 did not arrive within 2 s"):
        group.connection(lambda: None)
    ended()


def test_a_rank_0_that_never_arrives_is_named(
    start_workers: StartWorkers, model_folder: Path, monkeypatch: pytest.MonkeyPatch, ended: Callable[[], float]
) -> None:
    monkeypatch.setenv(failing_worker.ABSENT, "0")
    group = start_workers(model_folder, 1, program=FAILING, start_timeout=3)
    with pytest.raises(MachineError, match=r"rank 0 of the workers did not start within 3 s"):
        group.connection(lambda: None)
    ended()


def test_a_taken_port_is_named(start_workers: StartWorkers, model_folder: Path, ended: Callable[[], float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        group = start_workers(model_folder, 1, "--listen", f"127.0.0.1:{port}")
        with pytest.raises(MachineError, match=rf"rank 0 .*cannot listen at 127.0.0.1:{port}: Address already in use"):
            group.connection(lambda: None)
    ended()


def test_a_model_that_is_not_there_is_named(
    start_workers: StartWorkers, tmp_path: Path, ended: Callable[[], float]
) -> None:
    with pytest.raises(MachineError, match=rf"{tmp_path}/nowhere does not exist"):
        start_workers(tmp_path / "nowhere", 1).connection(lambda: None)
    ended()


HOST = """
import signal
import sys
from dataclasses import replace
from pathlib import Path
from tiny_avatar import PLAN, random_conditions
from worker_group import local_workers
from liveavatar_runtime.sampling.run import SamplingRequest
from liveavatar_workers.client.executor import RemoteExecutor
# A shell's background jobs, and what they start, ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
workers = local_workers(Path(sys.argv[1]), int(sys.argv[2]))
request = SamplingRequest(random_conditions(), replace(PLAN, num_clip=1000))
for block in RemoteExecutor(workers).run(request):
    print(block.index, flush=True)
"""


@pytest.mark.parametrize(("sign", "ranks"), [(signal.SIGKILL, 2), (signal.SIGTERM, 1), (signal.SIGINT, 1)])
def test_workers_end_with_the_process_that_started_them(model_folder: Path, sign: signal.Signals, ranks: int) -> None:
    paths = os.pathsep.join([str(PACK_ROOT), str(Path(__file__).parent)])
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, str(model_folder), str(ranks)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    try:
        assert host.stdout is not None
        assert host.stdout.readline() == "0\n"
        below = processes_below(host.pid)
        assert len(below) == 1 + ranks
        host.send_signal(sign)
        wait_until(lambda: host.poll() is not None and gone(below), LIMIT)
        host.stdout.close()
    finally:
        end_processes(host)


def test_workers_end_when_their_launcher_is_killed(
    start_workers: StartWorkers, model_folder: Path, ended: Callable[[], float]
) -> None:
    group = start_workers(model_folder, 2)
    run = RemoteExecutor(group).run(SamplingRequest(random_conditions(), PLAN))
    next(run)
    assert group.pid is not None
    psutil.Process(group.pid).kill()
    with pytest.raises(MachineError, match="The workers ended"):
        list(run)
    ended()
    assert group.pid is None


def test_workers_that_nobody_holds_any_more_end(
    start_workers: StartWorkers, model_folder: Path, ended: Callable[[], float]
) -> None:
    group = start_workers(model_folder, 1)
    next(RemoteExecutor(group).run(SamplingRequest(random_conditions(), PLAN)))
    del group
    ended()
