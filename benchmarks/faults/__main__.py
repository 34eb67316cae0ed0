"""`python -m benchmarks.faults`: each file-system call of small videos fails once, and the process dies at it once.

A shim in front of the C library (`shim.c`) counts the calls below the output, user and temporary folders. For every
call and everything that can go wrong there, a forked process runs into it, and another one looks at what is left and
runs again undisturbed: latents and video must be those of an undisturbed run, nothing may be left over, and an error
must say where and what to do.

Without options all faults are tried (half an hour with two jobs). `--part SEED --count N`: N faults at as many call
sites, the next ones with each seed. `--scenario NAME`: only these. `--list`: only count. `--defects`: try wrong ways to
write a file, all of which must be found.
"""

import argparse
import os
import pickle
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.faults.report import Report


from benchmarks import ROOT
from benchmarks.faults.shim import FAIL, POWER, TORN, NoCompiler, Shim, build_shim

CHUNK = 25
"""Faults after which a job writes what it has found."""


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", type=int, help="seed of a part")
    parser.add_argument("--count", type=int, default=60, help="faults of a part")
    parser.add_argument("--scenario", action="append")
    parser.add_argument("--match", default="", help="only faults whose description has this (a regular expression)")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--defects", action="store_true")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the faults")
    parser.add_argument("--table", type=Path, help="write the numbers to a file")
    # How a job is told what to do.
    parser.add_argument("--share", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main() -> None:
    options = options_of()
    if options.share is not None:
        run_share(options)
        return
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        folder = Path(name)
        try:
            library = build_shim(folder)
        except NoCompiler as error:
            sys.exit(str(error))
        environment = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "benchmarks.faults", *sys.argv[1:], "--folder", name, "--share"]
        jobs = [subprocess.Popen([*command, str(n)], env=environment, cwd=ROOT) for n in range(options.jobs)]
        while any(job.poll() is None for job in jobs):
            time.sleep(1)
            if options.table is not None:
                write_table(options.table, read_reports(folder), begin)
        if any(job.returncode for job in jobs):
            sys.exit("a job did not come to its end")
        if options.list:
            return
        reports = read_reports(folder)
    report = together(reports, begin)
    print(report.findings())
    print(report.summary)
    if options.table is not None:
        write_table(options.table, reports, begin)
    wrong = unexpected(report) if options.defects else report.failed
    sys.exit(bool(wrong))


def read_reports(folder: Path) -> "list[Report]":
    """What jobs have written until now."""
    return [pickle.loads(file.read_bytes()) for file in sorted(folder.glob("report-*"))]


def together(reports: "list[Report]", begin: float) -> "Report":
    tried = [one for report in reports for one in report.tried]
    return replace(reports[0], tried=tried, seconds=time.monotonic() - begin)


def write_table(file: Path, reports: "list[Report]", begin: float) -> None:
    """Also while the jobs go on, so that what they have found is kept whatever happens to them."""
    if reports:
        report = together(reports, begin)
        findings = f"\n```\n{report.findings()}\n```\n" if report.failed else ""
        file.write_text(f"{report.table()}\n\n{report.summary}\n{findings}")


def unexpected(report: "Report") -> list[str]:
    """Defects that were not found, and what was found where nothing is wrong."""
    from benchmarks.faults.defects import DEFECTS

    wrong = []
    for write, expected in DEFECTS.items():
        name = write.__name__
        problems = {problem for one in report.failed if one.fault.scenario == name for problem in one.problems}
        missed = [text for text in expected if not any(problem.startswith(text) for problem in problems)]
        right = not missed and (bool(expected) or not problems)
        print(f"{name}: {'as expected' if right else f'not found: {missed}, found: {sorted(problems)}'}")
        wrong += [] if right else [name]
    return wrong


def run_share(options: argparse.Namespace) -> None:
    """This job's faults; the shim is loaded here."""
    from benchmarks.faults.campaign import Laboratory
    from benchmarks.faults.choice import all_faults, part_of_faults, sites
    from benchmarks.faults.comfyui import import_pack
    from benchmarks.faults.defects import DEFECTS, keeps
    from benchmarks.faults.report import Report, Tried
    from benchmarks.faults.scenarios import SCENARIOS, Parts

    begin = time.monotonic()
    import_pack()
    known = [keeps(write) for write in DEFECTS] if options.defects else SCENARIOS
    scenarios = {one.name: one for one in known if not options.scenario or one.name in options.scenario}
    watched = options.folder / f"job-{options.share}" / "watched"
    watched.mkdir(parents=True)
    laboratory = Laboratory(watched.parent, Shim(watched), None if options.defects else Parts.make())
    for scenario in scenarios.values():
        laboratory.learn(scenario)
    calls = laboratory.calls
    if options.list:
        for (name, site), number in Counter((n, c.site) for n, made in calls.items() for c in made).items():
            print(f"{number:4} {name}: {site}")
    faults = all_faults(calls) if options.part is None else part_of_faults(calls, options.part, options.count)
    if options.defects:
        faults = [fault for fault in faults if fault.mode in (FAIL, TORN, POWER)]
    faults = [fault for fault in faults if re.search(options.match, str(fault))]
    places = Counter(name for name, _ in sites(calls))
    print(f"{sum(map(len, calls.values()))} calls at {places.total()} call sites, {len(faults)} faults", flush=True)
    if options.list:
        return
    # In an order by chance, so that a part of all is one of every scenario.
    random.Random(0).shuffle(faults)
    report = Report({name: len(made) for name, made in calls.items()}, dict(places), len(faults), [], 0)
    for number, fault in enumerate(faults[options.share :: options.jobs], 1):
        hit, problems = laboratory.inject(scenarios[fault.scenario], fault)
        report.tried.append(Tried(fault, hit, tuple(problems)))
        if number % CHUNK == 0:
            write_report(options, report, begin)
    write_report(options, report, begin)


def write_report(options: argparse.Namespace, report: "Report", begin: float) -> None:
    """What this job has found until now, in one step."""
    unfinished = options.folder / f"unfinished-{options.share}"
    unfinished.write_bytes(pickle.dumps(replace(report, seconds=time.monotonic() - begin)))
    unfinished.replace(options.folder / f"report-{options.share}")


if __name__ == "__main__":
    main()
