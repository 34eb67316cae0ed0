"""Prepares what is missing and runs every check: lint, format, types, tests; arguments go to pytest, which runs alone.

python scripts/run_tests.py [tests/golden -k rope]

--fast, alone: only the tests without the mark `slow`, in two processes, for an answer in a minute.
-m long: what the run of everything leaves out, further cases and proofs that take minutes.
"""

import os
import subprocess
import sys

from prepare import ROOT, prepare_tests, say, told

FAST = ["--fast"]


def main(arguments: list[str]) -> int:
    prepared, browser = prepare_tests()
    # All tests run in as many processes as there are cores, up to four, a file in one of them; each has a ComfyUI of
    # its own. More threads than cores make the small tensors of the tests slower, not faster.
    cores = os.cpu_count() or 2
    if arguments == FAST:
        arguments = ["-m", "not slow", "--numprocesses", "2", "--dist", "loadfile"]
    processes = min(cores, 4)
    threads = processes if arguments and "--numprocesses" not in arguments else min(cores // processes, 4)
    environment = {**os.environ, "CHROMIUM_PATH": browser, "COMFYUI_PATH": str(prepared.comfyui)}
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    # The tests start some two hundred Python processes, each of which would compile the pack anew: 1.7 of 4.9 seconds.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    checks = [["ruff", "check"], ["ruff", "format", "--check"], ["pyright"], ["scripts.check_page"]]
    checks.append(["pytest", "-m", "not long", "--numprocesses", str(processes), "--dist", "loadfile"])
    failed = []
    for check in [["pytest", *arguments]] if arguments else checks:
        say(f"- {' '.join(check)}")
        if subprocess.run([prepared.python, "-m", *check], cwd=ROOT, env=environment, check=False).returncode:
            failed.append(" ".join(check))
    if failed:
        say(f"\nerror: Not passed: {'; '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(told(lambda: main(sys.argv[1:])))
