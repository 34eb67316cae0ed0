"""What the machine is."""

import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import psutil
import torch

from benchmarks import ROOT

from .bench import GIB, Bench
from .budget import Step
from .host_memory import available, locked_limit
from .predicted import card_name

PACKAGES = ("triton", "transformers", "safetensors", "accelerate", "av", "numpy", "torchaudio", "comfy-kitchen")


def tell(bench: Bench) -> None:
    record = bench.record
    record.fact("card", card_name(bench))
    record.fact("memory, GiB", bench.total_memory() / GIB if bench.on_card else None)
    record.fact("memory, bytes", bench.total_memory() if bench.on_card else None)
    record.fact("torch", torch.__version__)
    record.fact("CUDA", torch.version.cuda if bench.on_card else None)
    record.fact("python", sys.version.split()[0])
    record.fact("system", platform.platform())
    record.fact("processor cores", os.cpu_count())
    record.fact("host RAM, GiB", psutil.virtual_memory().total / GIB)
    record.fact("host RAM that is free, GiB", available() / GIB)
    record.fact("memory that may be locked", locked_limit())
    record.fact("commit", _commit())
    for package in PACKAGES:
        record.fact(package, _version(package))
    if bench.on_card:
        properties = torch.cuda.get_device_properties(bench.device)
        driver, _, clocks = _driver().partition(", ")
        record.fact("driver", driver)
        record.fact("clock, highest clock, limit of power", clocks)
        record.fact("multiprocessors", properties.multi_processor_count)
        record.fact("compute capability", f"{properties.major}.{properties.minor}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _driver() -> str:
    command = shutil.which("nvidia-smi")
    if command is None:
        return "unknown"
    query = [command, "--query-gpu=driver_version,clocks.sm,clocks.max.sm,power.limit", "--format=csv,noheader"]
    told = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    return told.stdout.strip().splitlines()[0] if told.stdout.strip() else "unknown"


def _commit() -> str:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return "unknown"
    told = subprocess.run(
        [git, "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, timeout=20, check=False
    )
    return told.stdout.strip() or "unknown"


STEPS = (Step("what the machine is", 5, tell),)
