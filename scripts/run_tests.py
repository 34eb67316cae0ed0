"""Prepares what is missing and runs every check: lint, format, types, tests; arguments go to pytest, which runs alone.

python scripts/run_tests.py [tests/golden -k rope]

--fast, alone: only the tests without the mark `slow`, in two processes, for an answer in a minute.
-m long: what the run of everything leaves out, further cases and proofs that take minutes.
"""

import os
import subprocess
import sys
import tempfile
from typing import BinaryIO

from prepare import ROOT, prepare_tests, say, told

FAST = ["--fast"]
TYPES = ["pyright"]


def begin(python: str, check: list[str], environment: dict[str, str], printed: BinaryIO) -> "subprocess.Popen[bytes]":
    """Starts a check that writes what it says to a file."""
    command = [python, "-m", *check]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=printed, stderr=subprocess.STDOUT)


def main(arguments: list[str]) -> int:
    prepared, browser = prepare_tests()
    # All tests run in one process more than there are cores, up to four, a file in one of them; each has a ComfyUI of
    # its own. A third of the time a test waits for other processes. More threads than cores make the small tensors of
    # the tests slower, not faster.
    cores = os.cpu_count() or 2
    if arguments == FAST:
        arguments = ["-m", "not slow", "--numprocesses", "2", "--dist", "loadfile"]
    processes = min(cores + 1, 4)
    alone = bool(arguments) and "--numprocesses" not in arguments
    threads = min(cores, 4) if alone else max(1, min(cores // processes, 4))
    environment = {**os.environ, "CHROMIUM_PATH": browser, "COMFYUI_PATH": str(prepared.comfyui)}
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    # The tests start some two hundred Python processes, each of which would compile the pack anew: 1.7 of 4.9 seconds.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    checks = [["ruff", "check"], ["ruff", "format", "--check"], ["scripts.check_page"]]
    checks.append(["pytest", "-m", "not long", "--numprocesses", str(processes), "--dist", "loadfile"])
    with tempfile.TemporaryFile() as printed:
        # A core takes a minute and a half for the types, which is there while tests wait.
        types = None if arguments else begin(prepared.python, TYPES, environment, printed)
        failed = []
        for check in [["pytest", *arguments]] if arguments else checks:
            say(f"- {' '.join(check)}")
            if subprocess.run([prepared.python, "-m", *check], cwd=ROOT, env=environment, check=False).returncode:
                failed.append(" ".join(check))
        if types is not None:
            say(f"- {' '.join(TYPES)}")
            failed += [" ".join(TYPES)] if types.wait() else []
            printed.seek(0)
            say(printed.read().decode("utf-8", errors="replace").strip())
    if failed:
        say(f"\nerror: Not passed: {'; '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(told(lambda: main(sys.argv[1:])))
