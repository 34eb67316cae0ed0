"""Two machines, word for word as docs/WORKERS.md has it: network namespaces joined by a cable, each with one rank."""

import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from tiny_avatar import PLAN, random_conditions, random_model
from worker_group import end_processes, save_model

from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.sampling.run import SamplingRequest
from liveavatar_workers.client.groups import PACK_ROOT

GUIDE = PACK_ROOT / "docs" / "WORKERS.md"
LIMIT = 60.0
"""Seconds in which a failure must be told."""


@dataclass(frozen=True)
class Machine:
    """Where a command runs as on a machine of its own: prefix of the command, address, network card."""

    prefix: tuple[str, ...]
    address: str
    card: str


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[Machine, Machine]]:
    """Network namespaces where they may be made, else two addresses of the loopback card."""
    ending = uuid.uuid4().hex[:6]
    names, cards = [f"avatar{n}{ending}" for n in (0, 1)], [f"cable{n}{ending}" for n in (0, 1)]
    try:
        run("ip", "netns", "add", names[0])
    except (OSError, subprocess.CalledProcessError):
        yield Machine((), "127.0.0.1", "lo"), Machine((), "127.0.0.2", "lo")
        return
    run("ip", "netns", "add", names[1])
    run("ip", "link", "add", cards[0], "netns", names[0], "type", "veth", "peer", "name", cards[1], "netns", names[1])
    for number, (name, card) in enumerate(zip(names, cards, strict=True)):
        run("ip", "-n", name, "address", "add", f"10.77.0.{number + 1}/24", "dev", card)
        run("ip", "-n", name, "link", "set", card, "up")
        run("ip", "-n", name, "link", "set", "lo", "up")
    here, there = (
        Machine(("ip", "netns", "exec", name), f"10.77.0.{number + 1}", card)
        for number, (name, card) in enumerate(zip(names, cards, strict=True))
    )
    yield here, there
    for name in names:
        run("ip", "netns", "delete", name)


def recipe() -> list[str]:
    """The commands of the guide, in order: keys, settings, start."""
    section = GUIDE.read_text().split("## Several machines")[1]
    blocks = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 3
    return blocks


def settings(block: str, **values: str) -> str:
    """The guide's settings with other values."""
    names = re.findall(r"export (\w+)=", block)
    assert set(names) == set(values), "the guide has other settings than this test"
    return "".join(f"export {name}='{values[name]}'\n" for name in names)


CLIENT = """
import sys
from safetensors.torch import save_file
from tiny_avatar import PLAN, random_conditions
from liveavatar_runtime.errors import MachineError
from liveavatar_runtime.sampling.run import SamplingRequest
from pathlib import Path
from liveavatar_workers.client.executor import RemoteExecutor
from liveavatar_workers.client.groups import RemoteWorkers
from liveavatar_workers.client.named import read_group
from liveavatar_workers.keys import read_pair
folder = Path(sys.argv[1])
group = read_group(folder / "liveavatar-workers.ini", "studio")
workers = RemoteWorkers(group.address, read_pair(folder / "comfyui.key"), group.key, connect_timeout=120)
executor = RemoteExecutor(workers)
for line in sys.stdin:
    try:
        blocks = list(executor.run(SamplingRequest(random_conditions(), PLAN)))
        save_file({str(b.index): b.latents for b in blocks}, f"{folder}/{line.strip()}.safetensors")
        print("done", flush=True)
    except MachineError as error:
        print(str(error).splitlines()[0], flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each machine's copy of the repository, with the keys that the guide makes."""
    folder = tmp_path_factory.mktemp("machine")
    for name in ("liveavatar_runtime", "liveavatar_workers"):
        (folder / name).symlink_to(PACK_ROOT / name)
    subprocess.run(["bash", "-ec", recipe()[0]], cwd=folder, env=environment(), check=True)
    return folder


def environment() -> dict[str, str]:
    """Without what would make this repository be found, except by the guide's commands."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**own, "PATH": f"{Path(sys.executable).parent}:{own['PATH']}", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def started(machines: tuple[Machine, Machine], folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """torchrun on both machines."""
    model = save_model(folder / "model")
    running: list[subprocess.Popen[bytes]] = []
    try:
        for number, machine in enumerate(machines):
            values = {"MAIN": machines[0].address, "MACHINES": "2", "NUMBER": str(number), "GPUS": "1"}
            script = settings(recipe()[1], **values, CARD=machine.card, MODEL=str(model)) + f"exec env {recipe()[2]}"
            running.append(subprocess.Popen([*machine.prefix, "bash", "-ec", script], cwd=folder, env=environment()))
        yield running
    finally:
        end_processes(*running)


@pytest.fixture(scope="module")
def client(machines: tuple[Machine, Machine], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """ComfyUI's side, on the first machine."""
    key = (folder / "studio.pub").read_text().split()[-1]
    entry = f"[studio]\naddress = {machines[0].address}:29600\nkey = {key}\n"
    (folder / "liveavatar-workers.ini").write_text(entry)
    paths = os.pathsep.join([str(PACK_ROOT), str(Path(__file__).parent)])
    process = subprocess.Popen(
        [*machines[0].prefix, sys.executable, "-c", CLIENT, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**environment(), "PYTHONPATH": paths},
    )
    yield process
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    end_processes(process)
    process.stdout.close()


def ask(client: subprocess.Popen[str], name: str) -> str:
    assert client.stdin is not None and client.stdout is not None
    print(name, file=client.stdin, flush=True)
    return client.stdout.readline().strip()


def test_the_guides_commands_give_the_same_latents_on_two_machines(
    started: list[subprocess.Popen[bytes]], client: subprocess.Popen[str], folder: Path
) -> None:
    assert ask(client, "first") == "done"
    assert_equal_to_local(folder / "first.safetensors")


def test_a_rank_that_dies_on_the_other_machine_is_named_and_torchrun_starts_it_again(
    started: list[subprocess.Popen[bytes]], client: subprocess.Popen[str], folder: Path
) -> None:
    (worker,) = [p for p in psutil.Process(started[1].pid).children(recursive=True) if is_worker(p)]
    worker.kill()
    begin = time.monotonic()
    told = ask(client, "second")
    assert time.monotonic() - begin < LIMIT
    assert "rank 1" in told
    assert ask(client, "third") == "done"
    assert_equal_to_local(folder / "third.safetensors")


def is_worker(process: psutil.Process) -> bool:
    """Not torchrun, whose arguments name the module too."""
    command = process.cmdline()
    return "liveavatar_workers.rank.worker" in command and "--nnodes" not in command


def assert_equal_to_local(file: Path) -> None:
    got = load_file(file)
    torch.set_num_threads(1)
    for block in LocalExecutor(random_model(), torch.device("cpu"), torch.float32).run(
        SamplingRequest(random_conditions(), PLAN)
    ):
        assert torch.equal(got[str(block.index)], block.latents)
