"""`python -m benchmarks.faults.server`: some faults in a real ComfyUI that makes the short clip of the templates.

The server runs with the shim, which this process tells through a shared file what to do. After each fault the prompt
is queued again, in the same server or, where it died, in a new one: finished clips and video must be those of an
undisturbed run, the folders must hold the same files, and the error must say where and what to do.
"""

import argparse
import json
import os
import random
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfy_client import ComfyError
from comfy_server import ComfyServer, make_base
from prompt_builder import PromptBuilder

from benchmarks import ROOT
from benchmarks.faults.campaign import Fault
from benchmarks.faults.choice import faults_at
from benchmarks.faults.outcome import OPTIONAL, Told, shown
from benchmarks.faults.shim import COUNT, FAIL, FULL, KILL, TORN, Call, Site, build_shim, file_kind

OURS = ("liveavatar", "LiveAvatar")
NAMES = ("InputError", "CheckpointError", "MachineError", "OutputLostError", "NoRoom")
DEADLY, OTHERS = (KILL, TORN), (FAIL, FULL)
CONTROL = struct.Struct("iiiiqq")
SMALL = {"num_clip": 3, "infer_frames": 24, "width": 64, "height": 64, "seed": 9}


class Control:
    """The shared file: armed, mode, error, -, target, counter; and the log of calls."""

    def __init__(self, folder: Path) -> None:
        self.file, self.log = folder / "control", folder / "log"
        self.disarm()
        self.log.touch()

    def arm(self, mode: int, number: int = 0, error: int = 0) -> None:
        os.truncate(self.log, 0)
        self._write(1, mode, error, 0, number, 0)

    def disarm(self) -> None:
        self._write(0, 0, 0, 0, 0, 0)

    def _write(self, *values: int) -> None:
        # In place: the server has it mapped.
        descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT)
        os.pwrite(descriptor, CONTROL.pack(*values), 0)
        os.close(descriptor)

    def calls(self, root: Path) -> list[Call]:
        """Calls about files of ours."""
        lines = [line.split(" ", 3) for line in self.log.read_text().splitlines()]
        return [
            Call(int(number), Site(function, file_kind(path, root), ""), int(kinds))
            for number, kinds, function, path in lines
            if any(name in path for name in OURS)
        ]


@dataclass
class Lab:
    """A base folder with the watched folders in it."""

    base: Path
    control: Control

    @property
    def watched(self) -> Path:
        return self.base / "watched"

    @property
    def output(self) -> Path:
        return self.watched / "output"

    @contextmanager
    def server(self) -> Iterator[ComfyServer]:
        comfyui = Path(os.environ.get("COMFYUI_PATH", ROOT / ".comfyui" / "ComfyUI"))
        folders = ["--temp-directory", str(self.watched), "--user-directory", str(self.watched / "user")]
        with ComfyServer(comfyui, self.base, output=self.output, arguments=folders) as running:
            yield running

    def clear(self) -> None:
        for folder in (self.output, self.watched / "user" / "__liveavatar_spools"):
            shutil.rmtree(folder, ignore_errors=True)
        for made in (self.output, self.watched / "user"):
            made.mkdir(parents=True, exist_ok=True)

    def found(self) -> tuple[dict[str, bytes], str, set[str]]:
        """Finished clips, the newest video, and what else is there."""
        clips = {path.name: path.read_bytes() for path in self.watched.rglob("clip-*.safetensors")}
        videos = sorted(self.output.rglob("*.mp4"))
        names = {str(path.relative_to(self.watched)) for path in self.watched.rglob("*") if path not in videos}
        ours = {name for name in names if any(part in name for part in OURS) and not OPTIONAL.search(name)}
        return clips, shown(videos[-1]), ours


def prompt_of(server: ComfyServer) -> PromptBuilder:
    workflow = json.loads((ROOT / "workflows" / "short_clip.json").read_text())
    prompt = PromptBuilder(workflow, server.client.object_info())
    prompt.set("LiveAvatar_ClipScheduler", **SMALL)
    return prompt


def run(server: ComfyServer) -> Told | None:
    """What a node of ours tells the user; None for a success. Raises ComfyError or OSError when the server dies."""
    server.client.post("/free", {"free_memory": True, "unload_models": True})
    error: dict[str, Any] | None = server.client.run(prompt_of(server).nodes).error
    if error is None or not error["node_type"].startswith("LiveAvatar_"):
        return None
    kind = error["exception_type"]
    return Told(kind, error["exception_message"].strip(), kind in NAMES)


def chosen_faults(calls: list[Call], count: int, seed: int) -> list[Fault]:
    """At as many kinds of calls as there are faults, half of which kill."""
    chooser = random.Random(seed)
    sites = list(dict.fromkeys(call.site for call in calls))
    chooser.shuffle(sites)
    found = []
    for number, site in enumerate(sites * (1 + count // len(sites))):
        if len(found) == count:
            break
        call = chooser.choice([call for call in calls if call.site == site])
        faults = [fault for fault in faults_at("server", call) if fault.mode in (DEADLY if number % 2 else OTHERS)]
        found += [chooser.choice(faults)] if faults else []
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-server-") as name:
        folder = Path(name)
        control = Control(folder)
        lab = Lab(make_base(folder / "base"), control)
        os.environ |= {
            "LD_PRELOAD": str(build_shim(folder)),
            "FAULT_CONTROL": str(control.file),
            "FAULT_LOG": str(control.log),
            "FAULT_FOLDER": str(lab.watched),
        }
        failures = campaign(lab, options.faults, options.seed)
    print(f"{options.faults} faults in a real server: {failures} failures; {time.monotonic() - begin:.0f} s")
    sys.exit(bool(failures))


def campaign(lab: Lab, count: int, seed: int) -> int:
    lab.clear()
    with lab.server() as server:
        control = lab.control
        assert run(server) is None, "the run without faults failed"
        expected = lab.found()
        lab.clear()
        control.arm(COUNT)
        assert run(server) is None
        control.disarm()
        faults = chosen_faults(control.calls(lab.base), count, seed)
        calls = control.calls(lab.base)
    print(f"{len(calls)} calls about our files at {len({call.site for call in calls})} kinds of call sites", flush=True)
    failures, left = 0, faults
    while left:
        with lab.server() as server:
            left, failed = with_server(lab, server, left, expected)
        failures += failed
    return failures


def with_server(lab: Lab, server: ComfyServer, faults: list[Fault], expected: Any) -> tuple[list[Fault], int]:
    """Faults until one kills the server; returns the rest and the number of failures."""
    failures = 0
    for number, fault in enumerate(faults):
        lab.clear()
        lab.control.arm(fault.mode, fault.number, fault.error)
        try:
            told, died = run(server), False
        except (ComfyError, OSError):
            told, died = None, True
        lab.control.disarm()
        problems = told.problems(lab.base) if told else []
        if died:
            with lab.server() as another:
                problems += after(lab, another, expected)
        else:
            problems += after(lab, server, expected)
        failures += bool(problems)
        said = "died" if died else told.text if told else "success"
        print(f"{fault}\n    {said[:300]}", *(f"\n    FAILURE {problem}" for problem in problems), flush=True)
        if died:
            return faults[number + 1 :], failures
    return [], failures


def after(lab: Lab, server: ComfyServer, expected: Any) -> list[str]:
    told = run(server)
    if told is not None:
        return [f"the run after it raised {told.text}"]
    names = ("clips", "video", "files")
    found = lab.found()
    differing = [name for name, one, other in zip(names, found, expected, strict=True) if one != other]
    extra = found[2] ^ expected[2]
    return [f"the run after it made other {name}: {sorted(extra)}" for name in differing]


if __name__ == "__main__":
    main()
