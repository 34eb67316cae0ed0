"""Real workers for tests and benchmarks: a tiny model on disk, groups on the processor, what they leave behind."""

import contextlib
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
from safetensors.torch import save
from tiny_avatar import CONFIG, random_model
from torch import Tensor

from liveavatar_runtime.aligned import ALIGNMENT
from liveavatar_runtime.config import AvatarConfig
from liveavatar_workers.client.groups import WORKER, LocalWorkers

ODD_OFFSET = 60
"""Where products of the same numbers have other last bits than at 0, on processors on which that matters."""
FAILING = Path(__file__).parent / "failing_worker.py"


def save_at(file: Path, weights: Mapping[str, Tensor], offset: int) -> None:
    """A safetensors file whose first tensor starts at so many bytes from a multiple of 64."""
    content = save(dict(weights))
    (length,) = struct.unpack("<Q", content[:8])
    header = content[8 : 8 + length].rstrip()
    # The format allows spaces behind the header.
    padded = len(header) + (offset - 8 - len(header)) % ALIGNMENT
    file.write_bytes(struct.pack("<Q", padded) + header.ljust(padded) + content[8 + length :])


def save_model(folder: Path, config: AvatarConfig = CONFIG) -> Path:
    """A model folder with the weights of `random_model`, which lie at odd places when the file is mapped."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in random_model(config).state_dict().items()}
    save_at(folder / "diffusion_pytorch_model.safetensors", weights, ODD_OFFSET)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    return folder


def local_workers(
    model: Path, ranks: int, *more: str, program: Path | None = None, start_timeout: float = 180.0
) -> LocalWorkers:
    arguments = ["--model", str(model), "--devices", ",".join(["cpu"] * ranks), *more]
    run = WORKER if program is None else [str(program)]
    return LocalWorkers(ranks, arguments, run, start_timeout)


def processes_below(pid: int | None = None) -> set[int]:
    """Processes that this one (or `pid`) has started, their own included."""
    return {child.pid for child in psutil.Process(pid).children(recursive=True)}


def end_processes(*processes: subprocess.Popen[Any], seconds: float = 20.0) -> None:
    """Ask each process to end; what is left of them, and of what they have started, is killed."""
    running = [process for process in processes if process.poll() is None]
    below = [child for process in running for child in psutil.Process(process.pid).children(recursive=True)]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + seconds
    while any(process.poll() is None for process in running) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in running:
        process.kill()
        process.wait()
    for child in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def gone(pids: set[int]) -> bool:
    alive = [pid for pid in pids if psutil.pid_exists(pid)]
    return all(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE for pid in alive)


def wait_until(condition: Callable[[], bool], seconds: float) -> float:
    """Seconds until the condition held. Raises AssertionError when it took longer than `seconds`."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"it did not happen within {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - start


def open_descriptors() -> int:
    return psutil.Process(os.getpid()).num_fds() if sys.platform != "win32" else 0
