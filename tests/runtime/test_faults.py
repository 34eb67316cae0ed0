"""Every file-system call may fail, and the process may die at each: `python -m benchmarks.faults` tries all of them.

Here a part, chosen by a seed: LIVEAVATAR_FAULTS_PART=3 tries the next call sites, LIVEAVATAR_FAULTS=500 as many.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.faults.choice import part_of_faults
from benchmarks.faults.shim import CHANGES, Call, NoCompiler, Site, build_shim

ROOT = Path(__file__).parents[2]
PART = os.environ.get("LIVEAVATAR_FAULTS_PART", "0")
FAULTS = os.environ.get("LIVEAVATAR_FAULTS", "15")


@pytest.fixture(scope="module", autouse=True)
def compiler(tmp_path_factory: pytest.TempPathFactory) -> None:
    try:
        build_shim(tmp_path_factory.mktemp("shim"))
    except NoCompiler as error:
        pytest.skip(str(error))


def faults(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "benchmarks.faults", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_after_a_fault_the_next_run_makes_all_of_it():
    run = faults("--part", PART, "--count", FAULTS)
    print(run.stdout)
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{FAULTS} faults" in run.stdout


def test_the_parts_meet_every_call_site():
    calls = [Call(number, Site("write", f"file {number % 37}", "caller"), CHANGES) for number in range(1, 200)]
    met = {fault.site for part in range(8) for fault in part_of_faults({"it": calls}, part, 5)}
    assert met == {call.site for call in calls}


def test_wrong_ways_to_write_a_file_are_found():
    run = faults("--defects")
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("as expected") == 5
