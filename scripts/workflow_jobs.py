"""Jobs for a ComfyUI server: a workflow and the inputs that are changed in it, from the command line or a batch file.

A setting's name is `node.input`: the node by its id, title, display name or class, as in `Clip Scheduler.seed`.
"""

import csv
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from comfy_client import ComfyClient
from comfy_workflow import UPLOADS, Prompt, to_prompt

TEMPLATES = Path(__file__).resolve().parents[1] / "workflows"
ID, WORKFLOW = "id", "workflow"
"""Columns of a batch that are no settings."""
SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
BOOLEANS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


class JobError(ValueError):
    """What is wrong with a job or a batch; its text is for the user."""


@dataclass(frozen=True)
class Setting:
    """A new value of an input. `folder` is where relative file names begin; `text` is a value that was given as text
    and takes the type of its input."""

    name: str
    value: Any
    folder: Path
    text: bool = False

    @property
    def file(self) -> Path | None:
        """The local file that the value names, if it names one."""
        if not isinstance(self.value, str) or not self.value:
            return None
        path = self.folder / Path(self.value).expanduser()
        return path if os.path.isfile(path) else None


@dataclass(frozen=True)
class Job:
    """A workflow file (either form) with its settings. `id` names the folder of its results."""

    id: str
    workflow: Path
    settings: tuple[Setting, ...] = ()

    @cached_property
    def key(self) -> str:
        """A hash of all that the job is: the workflow, the settings and the contents of the files they name."""
        parts = [[setting.name, setting.value, sha256(setting.file)] for setting in self.settings]
        return hashlib.sha256(json.dumps([sha256(self.workflow), parts]).encode()).hexdigest()

    def prompt(self, object_info: Mapping[str, Any]) -> tuple[Prompt, dict[str, Any] | None]:
        """The API form without the settings, and the workflow if it is in the interface's form, which ComfyUI writes
        into files. Raises WorkflowError, JobError."""
        content = read_json(self.workflow)
        if isinstance(content, dict) and "nodes" in content:
            return to_prompt(content, dict(object_info)), content
        if isinstance(content, dict) and all(isinstance(n, dict) and "class_type" in n for n in content.values()):
            return content, None
        raise JobError(f"{self.workflow} is neither a workflow of ComfyUI's interface nor one in API form")


@lru_cache(maxsize=1024)
def _digest(path: Path, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def sha256(path: Path | None) -> str:
    """Of a file's content; "" for none."""
    if path is None:
        return ""
    about = path.stat()
    return _digest(path, about.st_size, about.st_mtime_ns)


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise JobError(f"{path} cannot be read as JSON: {error}") from None


def find_workflow(name: str, folder: Path) -> Path:
    """A workflow file, or the template of that name. Raises JobError."""
    for path in (folder / Path(name).expanduser(), TEMPLATES / f"{name}.json"):
        if path.is_file():
            return path.resolve()
    known = ", ".join(sorted(path.stem for path in TEMPLATES.glob("*.json"))) or "none beside this script"
    raise JobError(f"no workflow {name!r}: give a file, or a template ({known})")


def parse_setting(text: str) -> Setting:
    """`node.input=value` of the command line. Raises JobError."""
    name, equals, value = text.partition("=")
    if not equals or "." not in name:
        raise JobError(f"{text!r} is not a setting: give NODE.INPUT=VALUE, such as 'Clip Scheduler.seed=7'")
    return Setting(name.strip(), value, Path.cwd(), text=True)


@dataclass(frozen=True)
class Batch:
    """A CSV file with a column for each setting, or a JSON list of objects; a row is a job. `id` and `workflow` are
    optional columns; `workflow` and `common` settings are for the rows that have none of their own."""

    file: Path
    workflow: str
    common: tuple[Setting, ...] = ()

    def jobs(self) -> list[Job]:
        """Raises JobError."""
        text = self.file.suffix.lower() != ".json"
        rows = list(self._csv() if text else self._json())
        if not rows:
            raise JobError(f"{self.file} has no jobs in it")
        jobs = [self._job(number, row, text) for number, row in enumerate(rows, 1)]
        seen: set[str] = set()
        for job in jobs:
            if job.id.lower() in seen:
                raise JobError(f"{self.file}: the id {job.id!r} is there twice")
            seen.add(job.id.lower())
        return jobs

    def _csv(self) -> Iterator[dict[str, Any]]:
        # The mark at the beginning is what spreadsheets write.
        try:
            with self.file.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file)
                names = list(reader.fieldnames or ())
                if twice := sorted({name for name in names if names.count(name) > 1}):
                    raise JobError(f"{self.file}: the header has {', '.join(map(repr, twice))} twice")
                rows = list(reader)
        except (UnicodeDecodeError, csv.Error) as error:
            raise JobError(f"{self.file} cannot be read as CSV in UTF-8: {error}") from None
        for row in rows:
            if None in row:
                raise JobError(f"{self.file}: a row has more cells than the header: {row[None]}")
            if any(row.values()):  # Spreadsheets write rows of commas.
                yield row

    def _json(self) -> Iterator[dict[str, Any]]:
        rows = read_json(self.file)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise JobError(f"{self.file} is not a list of objects")
        yield from rows

    def _job(self, number: int, row: dict[str, Any], text: bool) -> Job:
        name = str(row.get(ID) or f"job-{number:04d}")
        if not SAFE_ID.fullmatch(name):
            raise JobError(f"{self.file}: the id {name!r} is to be a folder's name: letters, digits, '.', '_', '-'")
        folder = self.file.resolve().parent
        # An empty cell and null change nothing; an empty text of JSON is a text.
        given = {k: v for k, v in row.items() if v is not None and (v or not text)}
        own = [Setting(k, v, folder, text) for k, v in given.items() if k not in (ID, WORKFLOW)]
        workflow = find_workflow(row[WORKFLOW], folder) if row.get(WORKFLOW) else find_workflow(self.workflow, Path())
        names = {setting.name for setting in own}
        common = [setting for setting in self.common if setting.name not in names]
        return Job(name, workflow, (*common, *own))


def names_of(node_id: str, node: Mapping[str, Any], info: Mapping[str, Any]) -> list[str]:
    """What a node may be called, the most exact name first."""
    kind = node["class_type"]
    shown = info.get(kind, {}).get("display_name") or kind
    return [node_id, (node.get("_meta") or {}).get("title") or shown, shown, kind]


def inputs_of(node: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Names of a node's inputs, and what the server says about each; those of a choice's branch by its value alone."""
    described = info.get(node["class_type"], {}).get("input", {})
    found = {**(described.get("required") or {}), **(described.get("optional") or {})}
    return {name: found.get(name, []) for name in [*node["inputs"], *found]}


def targets(prompt: Prompt, name: str, info: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(node id, input) of all nodes that a setting's name means. Raises JobError when it is none."""
    for exactness in range(4):
        found = []
        for node_id, node in prompt.items():
            start = f"{names_of(node_id, node, info)[exactness]}."
            if name.startswith(start) and name.removeprefix(start) in inputs_of(node, info):
                found.append((node_id, name.removeprefix(start)))
        if found:
            return found
    known = sorted({f"{names_of(i, node, info)[1]}.{key}" for i, node in prompt.items() for key in node["inputs"]})
    raise JobError(f"the workflow has no input {name!r}. It has: {', '.join(known)}")


def typed(value: str, spec: list[Any], now: Any) -> Any:
    """A text as the type of its input, by what the server says or else by the value that is there. Raises
    ValueError."""
    kind = spec[0] if spec and isinstance(spec[0], str) else type(now).__name__.upper()
    if kind in ("BOOLEAN", "BOOL"):
        if value.strip().lower() not in BOOLEANS:
            raise ValueError("give true or false")
        return BOOLEANS[value.strip().lower()]
    return {"INT": int, "FLOAT": float}.get(kind, str)(value)


def takes_file(spec: list[Any]) -> bool:
    return len(spec) > 1 and any(spec[1].get(upload) for upload in UPLOADS)


def apply_settings(prompt: Prompt, job: Job, client: ComfyClient, info: Mapping[str, Any]) -> None:
    """Puts a job's settings into its prompt, and the files they name into the server's input folder.

    A file is called by its content there, so that jobs with different files of one name do not meet. A name of no
    local file is left to the server, which may have it. Raises JobError, ComfyError.
    """
    for setting in job.settings:
        for node_id, name in targets(prompt, setting.name, info):
            node = prompt[node_id]
            spec, value = inputs_of(node, info)[name], setting.value
            if takes_file(spec) and setting.file:
                value = client.upload(setting.file, f"{sha256(setting.file)[:24]}{setting.file.suffix.lower()}")
            elif takes_file(spec) and isinstance(value, str) and (value.startswith(".") or os.path.isabs(value)):
                raise JobError(f"{setting.name}: there is no file {value}")
            elif setting.text:
                try:
                    value = typed(value, spec, node["inputs"].get(name))
                except ValueError as error:
                    raise JobError(f"{setting.name}={setting.value!r}: {error}") from None
            node["inputs"][name] = {"__value__": value} if isinstance(value, list) else value


def listed(prompt: Prompt, info: Mapping[str, Any]) -> Iterator[str]:
    """`node.input = value` of every input that is no link, for people."""
    for node_id, node in prompt.items():
        for name, value in node["inputs"].items():
            if not isinstance(value, list):
                yield f"{names_of(node_id, node, info)[1]}.{name} = {json.dumps(value, ensure_ascii=False)}"
