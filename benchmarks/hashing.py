"""Measures how fast weight files are hashed: `python -m benchmarks.hashing` writes `benchmarks/results/hashing.md`.

A file of random bf16 weights is read and hashed as Load Avatar Model does it, by one core and by all, from the disk and
from the system's file cache, beside the hashes that would have been the alternatives.
"""

import argparse
import hashlib
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from safetensors.torch import save_file

from benchmarks import ROOT
from liveavatar_runtime.checkpoint import content
from liveavatar_runtime.checkpoint.known_hashes import KnownHashes
from liveavatar_runtime.checkpoint.safetensors_io import open_checkpoint
from liveavatar_runtime.checkpoint.weights_key import file_digest

RESULT = ROOT / "benchmarks" / "results" / "hashing.md"
TENSOR = 2**26
"""Bytes of each tensor."""
AGO = 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=2.0, help="size of the file")
    parser.add_argument("--folder", type=Path, help="where to write it; the disk that is measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        file = Path(name) / "weights.safetensors"
        write(file, int(options.gib * 2**30))
        RESULT.write_text(report(file, rows(file)))
    print(RESULT.read_text())


def write(file: Path, size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {f"{n}": torch.randn(TENSOR // 2, generator=generator).bfloat16() for n in range(size // TENSOR)}
    save_file(weights, file)
    with file.open("rb") as written:
        os.fsync(written.fileno())
    then = time.time() - AGO
    os.utime(file, (then, then))


@dataclass(frozen=True)
class Row:
    """What was done with how many bytes, in seconds of the clock and of processors."""

    what: str
    size: int
    seconds: float
    busy: float


def rows(file: Path) -> list[Row]:
    size, cores = file.stat().st_size, content.THREADS
    known = KnownHashes(file.parent / "known")

    def digest(threads: int, remembered: KnownHashes | None = None) -> str:
        content.THREADS = threads
        return file_digest(open_checkpoint(file), remembered or KnownHashes())

    def row(what: str, cold: bool, call: Callable[[], object]) -> Row:
        if cold and hasattr(os, "posix_fadvise"):
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return measured(what, size, call)

    found = [row(f"from the disk, {cores} threads: the first load", True, lambda: digest(cores, known))]
    before = psutil.Process().memory_info().rss
    found.append(row(f"from the cache, {cores} threads", False, lambda: digest(cores)))
    found.append(row("from the cache, 1 thread", False, lambda: digest(1)))
    print(f"memory grew by {(psutil.Process().memory_info().rss - before) / 2**20:.0f} MiB")
    found.append(row("known by path, size and times: later loads", False, lambda: digest(cores, known)))
    return found + alternatives(file)


def measured(what: str, size: int, call: Callable[[], object]) -> Row:
    start, busy = time.perf_counter(), time.process_time()
    call()
    return Row(what, size, time.perf_counter() - start, time.process_time() - busy)


def alternatives(file: Path) -> list[Row]:
    with file.open("rb") as opened:
        stored = opened.read(2**28)
    values = torch.frombuffer(bytearray(stored[len(stored) % 2 :]), dtype=torch.bfloat16)[2**20 :]
    calls: dict[str, Callable[[], object]] = {
        "SHA-256": lambda: hashlib.sha256(stored).digest(),
        "BLAKE2b": lambda: hashlib.blake2b(stored).digest(),
        "looking for NaN and infinite values": lambda: content.broken_numbers(values),
    }
    try:
        from blake3 import blake3  # type: ignore[import-not-found]

        calls["BLAKE3 (a package)"] = lambda: blake3(stored).digest()
    except ImportError:
        pass
    return [measured(f"{name}, one core", len(stored), call) for name, call in calls.items()]


def report(file: Path, found: list[Row]) -> str:
    size = file.stat().st_size
    lines = [
        "# Hashing weight files",
        "",
        f"By `python -m benchmarks.hashing` on {platform.system()}, {os.cpu_count()} cores, load "
        f"{psutil.getloadavg()[0]:.0f}: a file of {size / 2**30:.1f} GiB of random bf16 weights.",
        "",
        "Seconds of processors do not count what else the machine does. Looking for NaN is part of the hashing.",
        "The time of the 33 GB of Wan2.2-S2V-14B in bf16 is computed; an idle machine shares it among its cores, 8 at",
        "most, unless its disk is slower.",
        "",
        "| way | GB/s | GB a processor second | processor seconds for 33 GB |",
        "| --- | --- | --- | --- |",
    ]
    for row in found:
        if row.what.startswith("known"):
            lines.append(f"| {row.what} | | | {row.busy:.2f} in all |")
        else:
            speed = row.size / 1e9
            lines.append(
                f"| {row.what} | {speed / row.seconds:.2f} | {speed / row.busy:.2f} | {33 * row.busy / speed:.0f} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
