"""Runs workflows on ComfyUI servers without a browser: one with changed inputs, or a batch; docs/HEADLESS.md.

    python scripts/run_workflow.py --workflow short_clip --set "Clip Scheduler.seed=7" --set Voice.audio=voice.wav
    python scripts/run_workflow.py --workflow avatar_14b --batch jobs.csv --server http://a:8188 --server http://b:8188

Needs Python 3.10 and aiohttp. Without a checkout, copy the five files that it consists of into one folder:
run_workflow.py, workflow_jobs.py, job_runner.py, comfy_client.py, comfy_workflow.py.
"""

import argparse
import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from comfy_client import ComfyClient, ComfyError, Event, Prompt, node_title
from comfy_workflow import WorkflowError
from job_runner import Board, Record, Server, run_jobs, stop
from workflow_jobs import (
    SAFE_ID,
    Batch,
    Job,
    JobError,
    apply_settings,
    find_workflow,
    listed,
    parse_setting,
)

DEFAULT_SERVER = "http://127.0.0.1:8188"
DEFAULT_WORKFLOW = "short_clip"
DONE, SOME_FAILED, WRONG_USE, NO_SERVER, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 130, 143
EXIT_CODES = """exit codes:
  0    all jobs are done, now or by an earlier run
  1    at least one job failed; the others are done
  2    the command or the batch file is wrong; nothing was run
  3    no server answered; run it again to go on
  130  stopped with Ctrl+C (143: by SIGTERM); run it again to go on"""


class Terminated(BaseException):
    """SIGTERM."""


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run_workflow.py",
        description="Runs a workflow on ComfyUI servers, with inputs by name, once or for each row of a batch.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workflow", default=DEFAULT_WORKFLOW, metavar="NAME", help="a template, or a file")
    parser.add_argument("--set", action="append", default=[], metavar="NODE.INPUT=VALUE", help="change an input")
    parser.add_argument("--batch", type=Path, metavar="FILE", help="CSV or JSON, a row a job")
    parser.add_argument("--server", action="append", metavar="URL", help=f"repeat for several ({DEFAULT_SERVER})")
    parser.add_argument("--output", type=Path, default=Path("videos"), metavar="DIR", help="for results (videos)")
    parser.add_argument("--id", default="job", metavar="NAME", help="the folder of the result without --batch (job)")
    parser.add_argument("--wait", type=float, default=60.0, metavar="S", help="seconds to wait for a server (60)")
    parser.add_argument("--quiet", action="store_true", help="say only what begins, ends and fails")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true", help="print the inputs that can be set, and end")
    instead.add_argument(
        "--export",
        type=Path,
        metavar="FILE",
        help="write the API form with the settings (of a batch's first row), and end",
    )
    return parser.parse_args(arguments)


def jobs_of(options: argparse.Namespace) -> list[Job]:
    """Raises JobError."""
    settings = tuple(map(parse_setting, options.set))
    if options.batch:
        if not options.batch.is_file():
            raise JobError(f"{options.batch} is not a file")
        return Batch(options.batch, options.workflow, settings).jobs()
    if not SAFE_ID.fullmatch(options.id):
        raise JobError(f"--id {options.id!r} is to be a folder's name: letters, digits, '.', '_', '-'")
    return [Job(options.id, find_workflow(options.workflow, Path()), settings)]


class Teller:
    """Prints lines from several threads; each begins with the time and the job."""

    def __init__(self, quiet: bool):
        self.quiet = quiet
        self.start = time.monotonic()
        self._lock = threading.Lock()

    def __call__(self, name: str, text: str) -> None:
        with self._lock:
            print(f"{time.monotonic() - self.start:8.1f} s  {name}: {text}", flush=True)

    def progress(self, job: Job, prompt: Prompt) -> Callable[[Event], None]:
        """Tells a job's progress: a node's share done in steps of 10 %, and what nodes of this pack tell."""
        shown: dict[str, int] = {}

        def tell(event: Event) -> None:
            if self.quiet:
                return
            if event.kind == "progress_state":
                for state in event.data["nodes"].values():
                    node, tenth = state["display_node_id"], int(10 * state["value"] / max(state["max"], 1e-9))
                    if shown.get(node) != tenth:
                        shown[node] = tenth
                        self(job.id, f"{node_title(prompt, node)} {10 * tenth} %")
            elif event.kind == "executed":
                for note in (event.data.get("output") or {}).get("liveavatar_notes", []):
                    self(job.id, f"{node_title(prompt, str(event.node))}: {note}")

        return tell


def describe(job: Job, client: ComfyClient, export: Path | None) -> None:
    """Prints the inputs of a job's workflow, or writes its API form. Raises JobError, WorkflowError, ComfyError."""
    info = client.object_info()
    prompt, _ = job.prompt(info)
    apply_settings(prompt, job, client, info)
    if export:
        export.write_text(json.dumps(prompt, indent=1, ensure_ascii=False), encoding="utf-8")
    else:
        print(*listed(prompt, info), sep="\n")


def run(options: argparse.Namespace, jobs: list[Job]) -> int:
    """The exit code of running all jobs."""
    options.output.mkdir(parents=True, exist_ok=True)
    tell, record = Teller(options.quiet), Record(options.output.resolve())
    board = Board([job for job in jobs if not record.has(job)])
    if board.left < len(jobs):
        print(f"{len(jobs) - board.left} of {len(jobs)} jobs are done already", flush=True)
    clients = map(ComfyClient, dict.fromkeys(options.server or [DEFAULT_SERVER]))
    servers = [Server(client, board, record, tell, tell.progress) for client in clients]
    try:
        answered = run_jobs(servers, board, options.wait)
    except (KeyboardInterrupt, Terminated) as reason:
        left = board.left
        stop(board)
        print(f"Stopped; {left} jobs are left. Run it again to go on.", file=sys.stderr)
        return INTERRUPTED if isinstance(reason, KeyboardInterrupt) else TERMINATED
    if not answered:
        print(f"error: no server has answered for {options.wait:g} s; {board.left} jobs are left", file=sys.stderr)
        return NO_SERVER
    if board.failed:
        print(f"error: {len(board.failed)} of {len(jobs)} jobs failed: {', '.join(board.failed)}", file=sys.stderr)
    return SOME_FAILED if board.failed else DONE


def terminate(*_: object) -> None:
    raise Terminated


def main(arguments: list[str]) -> int:
    options = parse_arguments(arguments)
    try:
        jobs = jobs_of(options)
        if options.list or options.export:
            first = replace(jobs[0], settings=() if options.list else jobs[0].settings)
            describe(first, ComfyClient((options.server or [DEFAULT_SERVER])[0]), options.export)
            return DONE
        return run(options, jobs)
    except (JobError, WorkflowError) as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_USE
    except ComfyError as error:
        print(f"error: {error}", file=sys.stderr)
        return NO_SERVER


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminate)
    sys.exit(main(sys.argv[1:]))
