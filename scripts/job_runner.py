"""Runs jobs on one or several ComfyUI servers: each goes to a server that is free, and elsewhere when that is lost.

What was finished of a lost job is not sampled again if the servers share the folder of finished clips
(docs/HEADLESS.md). Finished jobs are noted in a file, and a later run leaves them out.
"""

import json
import os
import queue
import shutil
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfy_client import (
    ComfyClient,
    ComfyError,
    Event,
    EventStream,
    Prompt,
    PromptRefused,
    RequestRefused,
    RunFailed,
    RunResult,
    parse_message,
)
from comfy_workflow import WorkflowError
from workflow_jobs import Job, JobError, apply_settings

NOTED = "jobs.jsonl"
POLL_SECONDS = 1.0
LOST_AFTER = 3
"""Requests in a row that a server leaves without an answer."""
LOSSES_OF_A_JOB = 3
"""Servers that a job may lose before it counts as failed: it may be what ends them."""


class ServerLost(ComfyError):
    """A server does not answer any more, or has forgotten the job since it was started again."""


class Record:
    """The file that tells which jobs are finished, a JSON object a line: id, key, files, server, seconds."""

    def __init__(self, output: Path):
        self.output, self.file = output, output / NOTED
        self._lock = threading.Lock()
        self._lines = list(self._read())

    def _read(self) -> Iterator[dict[str, Any]]:
        for line in self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []:
            with suppress(ValueError):  # The last line of a run that was killed.
                yield json.loads(line)

    def has(self, job: Job) -> bool:
        """Whether the job was finished, as it is now, and its files are still there."""
        key = job.key  # Read before it runs, whatever becomes of its files meanwhile.
        # A later run of this id has overwritten the files of an earlier one.
        last = next((line for line in reversed(self._lines) if line["id"] == job.id), None)
        return last is not None and last["key"] == key and all((self.output / name).is_file() for name in last["files"])

    def add(self, line: dict[str, Any]) -> None:
        with self._lock, self.file.open("a+b") as file:
            whole = file.tell() == 0 or self.file.read_bytes().endswith(b"\n")
            file.write((b"" if whole else b"\n") + json.dumps(line, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def is_free(client: ComfyClient) -> bool:
    """Whether nothing runs or waits on a server. Raises ComfyError."""
    waiting = client.get("/queue")
    return not waiting["queue_running"] and not waiting["queue_pending"]


@dataclass
class Watch:
    """A queued prompt, followed to its end. The history is what counts, so a websocket that breaks changes nothing."""

    client: ComfyClient
    prompt: Prompt
    prompt_id: str
    on_event: Callable[[Event], None]

    def follow(self, stream: EventStream) -> RunResult:
        """Raises ServerLost, and RunFailed when a node failed or the run was interrupted."""
        start = time.monotonic()
        while True:
            try:
                message = stream.messages.get(timeout=POLL_SECONDS)
            except queue.Empty:
                message = None
            if message is not None:
                event = parse_message(message, time.monotonic() - start)
                self.on_event(event)
                if event.kind != "executing" or event.node is not None:
                    continue
            if entry := self._patiently_asked():
                return self._result(entry, time.monotonic() - start)

    def _result(self, entry: Mapping[str, Any], seconds: float) -> RunResult:
        told = entry.get("status", {}).get("messages", [])
        events = [Event(0.0, kind, data.get("node_id"), data) for kind, data in told]
        outputs = entry.get("outputs", {})
        result = RunResult(self.prompt, self.prompt_id, events, outputs, seconds=seconds)
        result.raise_for_error()
        return result

    def _patiently_asked(self) -> dict[str, Any]:
        """`_entry`, asked again when the server does not answer."""
        for attempt in range(LOST_AFTER):
            try:
                return self._entry()
            except (RequestRefused, ServerLost):
                raise
            except ComfyError as error:
                if attempt == LOST_AFTER - 1:
                    raise ServerLost(str(error)) from error
                time.sleep(POLL_SECONDS)
        return {}

    def _entry(self) -> dict[str, Any]:
        """The finished prompt in the server's history; {} while it waits or runs."""
        for _ in range(2):  # It may end between the two questions.
            if entry := self.client.history(self.prompt_id):
                return entry
            waiting = self.client.get("/queue")
            if any(item[1] == self.prompt_id for item in waiting["queue_running"] + waiting["queue_pending"]):
                return {}
        raise ServerLost(f"{self.client.url} does not know the job any more: it was started again, or told to forget")


def output_files(result: RunResult) -> Iterator[dict[str, str]]:
    """What a run wrote into the output folder: filename and subfolder, each once."""
    seen: set[tuple[str, str]] = set()
    for shown in result.outputs.values():
        for entries in shown.values():
            for entry in entries if isinstance(entries, list) else []:
                if isinstance(entry, dict) and entry.get("filename") and entry.get("type", "output") == "output":
                    place = (entry.get("subfolder", ""), entry["filename"])
                    if place not in seen:
                        seen.add(place)
                        yield {"filename": place[1], "subfolder": place[0], "type": "output"}


def places_of(entries: Sequence[Mapping[str, str]]) -> list[Path]:
    """Where a job's files go in its folder: side by side, or as on the server where two have the same name."""
    names = [Path(entry["filename"]).name for entry in entries]
    # What a server says must not lead out of the folder.
    folders = [[part for part in Path(entry["subfolder"]).parts if part.strip(".:/\\")] for entry in entries]
    unique = len({name.lower() for name in names}) == len(names)
    return [Path(name) if unique else Path(*folder, name) for name, folder in zip(names, folders, strict=True)]


def fetch(client: ComfyClient, entry: Mapping[str, str], path: Path) -> Path:
    """Copies a file of a server; it has its name when it is whole. Raises ComfyError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    address = f"{client.url}/view?{urllib.parse.urlencode(entry)}"
    try:
        with urllib.request.urlopen(address, timeout=60) as answer, part.open("wb") as file:
            shutil.copyfileobj(answer, file, 1 << 20)
            wanted = int(answer.headers.get("Content-Length") or file.tell())
    except urllib.error.HTTPError as error:
        raise RequestRefused("/view", error.code, entry["filename"]) from None
    except OSError as error:
        raise ServerLost(f"{address} does not answer: {error}") from error
    if part.stat().st_size != wanted:
        raise ServerLost(f"{address} ended after {part.stat().st_size} of {wanted} bytes")
    part.replace(path)
    return path


class Board:
    """The jobs that wait, run, are done and have failed; what the threads of the servers share."""

    def __init__(self, jobs: Sequence[Job]):
        self._lock = threading.Lock()
        self._waiting = deque(jobs)
        self._losses: dict[str, int] = {}
        self.running: dict[str, tuple[ComfyClient, str]] = {}
        self.left = len(jobs)
        self.failed: list[str] = []
        self.stopped = False

    @property
    def finished(self) -> bool:
        return self.stopped or self.left == 0

    def take(self) -> Job | None:
        with self._lock:
            return self._waiting.popleft() if self._waiting and not self.stopped else None

    def end(self, job: Job, failed: bool = False) -> None:
        with self._lock:
            self.left -= 1
            self.running.pop(job.id, None)
            if failed:
                self.failed.append(job.id)

    def give_back(self, job: Job) -> bool:
        """Puts a job whose server was lost in front of the others; False when it has lost too many."""
        with self._lock:
            self.running.pop(job.id, None)
            self._losses[job.id] = self._losses.get(job.id, 0) + 1
            if self._losses[job.id] < LOSSES_OF_A_JOB:
                self._waiting.appendleft(job)
                return True
        return False


@dataclass
class Server:
    """One server with the thread that gives it jobs. `answered` is when it last did."""

    client: ComfyClient
    board: Board
    record: Record
    tell: Callable[[str, str], None]
    progress: Callable[[Job, Prompt], Callable[[Event], None]]
    answered: float = 0.0

    def work(self) -> None:
        """Until all jobs of the board are done, whoever does them."""
        while not self.board.finished:
            try:
                free = is_free(self.client)
                self.answered = time.monotonic()
            except ComfyError:
                free = False
            job = self.board.take() if free else None
            if job is None:
                time.sleep(POLL_SECONDS)
            else:
                self._do(job)

    def _do(self, job: Job) -> None:
        try:
            result = self._run(job)
            files = self._fetched(job, list(output_files(result)))
        except (PromptRefused, RequestRefused, RunFailed, WorkflowError, JobError) as error:
            self._failed(job, str(error))
        except ComfyError as error:
            if self.board.give_back(job):
                self.tell(job.id, f"{self.client.url} is lost ({error}); another server goes on with it")
            else:
                self._failed(job, f"it has lost {LOSSES_OF_A_JOB} servers; the last one: {error}")
        except Exception as error:
            # Whatever it is, the other jobs go on.
            self._failed(job, f"{type(error).__name__}: {error}")
        else:
            names = [path.relative_to(self.record.output).as_posix() for path in files]
            line = {"id": job.id, "key": job.key, "files": names, "server": self.client.url}
            self.record.add({**line, "seconds": round(result.seconds, 3)})
            self.board.end(job)
            self.tell(job.id, f"done in {result.seconds:.1f} s: {', '.join(map(str, files))}")

    def _fetched(self, job: Job, entries: Sequence[Mapping[str, str]]) -> list[Path]:
        if not entries:
            raise JobError("it ended without a file in the server's output folder; add a node that saves one")
        folder = self.record.output / job.id
        return [
            fetch(self.client, entry, folder / place) for entry, place in zip(entries, places_of(entries), strict=True)
        ]

    def _failed(self, job: Job, reason: str) -> None:
        self.board.end(job, failed=True)
        if not self.board.stopped:
            self.tell(job.id, f"error: {reason}")

    def _run(self, job: Job) -> RunResult:
        info = self.client.object_info()
        prompt, workflow = job.prompt(info)
        apply_settings(prompt, job, self.client, info)
        name = uuid.uuid4().hex
        with EventStream(self.client.url, name) as stream:
            answer = self.client.queue(prompt, name, workflow)
            watch = Watch(self.client, prompt, answer["prompt_id"], self.progress(job, prompt))
            self.board.running[job.id] = self.client, watch.prompt_id
            self.tell(job.id, f"begins on {self.client.url}")
            result = watch.follow(stream)
        if answer.get("node_errors"):
            raise PromptRefused(answer, prompt)
        return result


def stop(board: Board) -> None:
    """Begins nothing more, and ends what runs on the servers; finished clips are kept there."""
    board.stopped = True
    for client, prompt_id in list(board.running.values()):
        with suppress(ComfyError):
            client.post("/queue", {"delete": [prompt_id]})
            client.post("/interrupt", {"prompt_id": prompt_id})


def run_jobs(servers: Sequence[Server], board: Board, patience: float) -> bool:
    """Runs all jobs; False when none runs, no server has answered for `patience` seconds and jobs are left."""
    last = time.monotonic()
    threads = [threading.Thread(target=server.work, daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    while not board.finished:
        time.sleep(0.1)
        # A server that runs a job is asked for nothing else.
        last = time.monotonic() if board.running else max([last, *(server.answered for server in servers)])
        if time.monotonic() - last > patience:
            board.stopped = True
            return False
    return True
