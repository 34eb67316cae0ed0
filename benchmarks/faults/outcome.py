"""What must be true after a fault: the text is readable, what was made plays, and a normal run makes all of it."""

import hashlib
import os
import re
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from liveavatar_runtime.duration import FRAMES_PER_BLOCK
from liveavatar_runtime.errors import InputError, MachineError

from . import shim
from .scenarios import Parts, Place, Scenario
from .shim import Site

RAW = re.compile(r"Traceback|Errno|os error|<class|\bException\b|Error\(|Error: ")
ADVICE = re.compile(
    r"\b(make room|free some|allow|check|choose|give|make sure|run again|queue again|connect)\b", re.IGNORECASE
)
UNFINISHED = re.compile(r"/\.|\.tmp|^temp/.|\.new\b")
"""Names that no finished work has."""
TEMPORARY = re.compile(r"/temp/liveavatar[^/]*(/spool)?")
"""Folders that are opened to remove what is in them."""
OF_SPOOL = re.compile(r"(clip|state)-")
OPTIONAL = re.compile(r"/((state|anew)-[^/]*|spool\.json)$")
"""Files of a spool that may be there or not after a run was broken off: a state that found no room is left out, one
more than is needed goes with the next sampling; spool.json is for people, and left out where the disk refuses it."""
DEADLY = (shim.KILL, shim.TORN, shim.POWER)
RESTART_SECONDS = 2 * 3600
"""So much later ComfyUI is started again after it was killed."""


@dataclass(frozen=True)
class Told:
    """An error that came out."""

    kind: str
    text: str
    is_ours: bool

    @classmethod
    def of(cls, error: Exception) -> "Told":
        return cls(type(error).__name__, str(error), isinstance(error, InputError | MachineError))

    def problems(self, root: Path) -> list[str]:
        text = " ".join(self.text.split())
        found = []
        if not self.is_ours:
            found.append(f"raised {self.kind}: {text}")
        else:
            if str(root) not in text:
                found.append(f"names no folder: {text}")
            if not ADVICE.search(text):
                found.append(f"does not say what to do: {text}")
            if RAW.search(text):
                found.append(f"shows a raw error: {text}")
        return found


@dataclass(frozen=True)
class Crash:
    """A process that did not come to its end; `reason`: a traceback of the harness, or the signal."""

    status: int
    reason: str = ""

    @property
    def killed(self) -> bool:
        return self.status == signal.SIGKILL

    def __str__(self) -> str:
        return self.reason or f"ended with status {self.status}"


@dataclass(frozen=True)
class Found:
    """What a run made: its result, the files that are there, and what the video file shows."""

    value: Any
    files: frozenset[str]
    video: str

    @classmethod
    def at(cls, place: Place, value: Any) -> "Found":
        name = value.get("file")
        return cls(value, listing(place), shown(place.output / name) if name else "")


@dataclass(frozen=True)
class Outcome:
    """A run under a fault: its result, what it raised, or that it died; frames that were told to be written."""

    mode: int
    result: dict[str, Any] | Told | Crash
    frames: int
    site: Site | None


def listing(place: Place) -> frozenset[str]:
    """Files and folders below the root."""
    return frozenset(str(path.relative_to(place.root)) for path in place.root.rglob("*"))


def shown(path: Path) -> str:
    """A digest of all frames and all sound of a video, as a player decodes them."""
    import av

    found = hashlib.sha256()
    for kind, options in (("video", {"format": "rgb24"}), ("audio", {})):
        with av.open(str(path)) as file:
            for frame in file.decode(**{kind: 0}):
                found.update(f"{float(frame.time):.3f}".encode() + frame.to_ndarray(**options).tobytes())
    return found.hexdigest()


def frames_in(path: Path) -> int:
    """Frames that a player shows of a file, up to where it is torn."""
    import av
    from av.error import FFmpegError

    frames = 0
    with suppress(FFmpegError, IndexError), av.open(str(path)) as file:
        for _ in file.decode(video=0):
            frames += 1
    return frames


def problems_of(scenario: Scenario, parts: Parts, place: Place, outcome: Outcome, expected: Found) -> list[str]:
    """Look at what a fault has left, run again undisturbed, and look at that; in a process of its own."""
    before = listing(place)
    problems = right_after(scenario, place, outcome, expected, before)
    if isinstance(outcome.result, Crash) or not could_remove(outcome):
        restart(place)
    try:
        value = scenario.run(parts, place)
    except Exception as error:
        return [*problems, f"the run after it raised {type(error).__name__}: {error}"]
    return problems + differences(Found.at(place, value), forgiven(scenario, outcome, expected))


def could_remove(outcome: Outcome) -> bool:
    """Whether nothing was in the way of removing temporary files; what is left there goes when ComfyUI starts again."""
    site = outcome.site
    removing = site is not None and (site.function in ("unlink", "rmdir", "opendir") or TEMPORARY.fullmatch(site.file))
    return outcome.mode != shim.GONE and not removing


def forgiven(scenario: Scenario, outcome: Outcome, expected: Found) -> Found:
    """What is asked for of the run itself: a clip that cannot be read is made again, where a video goes on almost,
    not exactly, as a slightly other one."""
    site = outcome.site
    unread = site is not None and site.function in ("open", "read") and OF_SPOOL.search(site.file)
    optional = set()
    if not scenario.exact and (unread or outcome.mode == shim.GONE):
        optional.add("kept")
    value = {name: found for name, found in expected.value.items() if name not in optional}
    return Found(value, expected.files, expected.video)


def right_after(
    scenario: Scenario, place: Place, outcome: Outcome, expected: Found, before: frozenset[str]
) -> list[str]:
    """Of the run under the fault itself."""
    result, problems = outcome.result, []
    if isinstance(result, Crash):
        if not (result.killed and outcome.mode in DEADLY):
            return [f"the run died: {result}"]
    elif isinstance(result, Told):
        problems += result.problems(place.root)
    elif Found.at(place, result).video != expected.video:
        problems.append("the run told no error, and its video is not complete")
    elif unlike(result, forgiven(scenario, outcome, expected).value):
        problems.append(f"the run told no error and gave {unlike(result, expected.value)}")
    if scenario.grows and outcome.mode != shim.POWER and not isinstance(result, dict):
        problems += broken_videos(place, outcome)
    if not isinstance(result, Crash) and could_remove(outcome):
        left = sorted(name for name in before - expected.files if UNFINISHED.search(name))
        problems += [f"left over at once: {name}" for name in left]
    return problems


def broken_videos(place: Place, outcome: Outcome) -> list[str]:
    """A video that was begun plays up to the last block but one that was told to be written."""
    wanted = outcome.frames - FRAMES_PER_BLOCK
    found = {path.name: frames_in(path) for path in place.output.iterdir() if not UNFINISHED.search(path.name)}
    return [f"{name} shows {frames} of {outcome.frames} frames" for name, frames in found.items() if frames < wanted]


def restart(place: Place) -> None:
    """What ComfyUI does to its temporary folder when it starts; some time later, as locks and leftovers see it."""
    shutil.rmtree(place.temp, ignore_errors=True)
    place.temp.mkdir()
    then = time.time() - RESTART_SECONDS
    for path in place.root.rglob("*"):
        os.utime(path, (then, then))


def unlike(value: dict[str, Any], expected: dict[str, Any]) -> str:
    """What of a result differs; the file may have another number."""
    return ", ".join(f"another {name}" for name in expected if name != "file" and value[name] != expected[name])


def differences(found: Found, expected: Found) -> list[str]:
    """Of the run after a fault from an undisturbed one."""
    problems = []
    if unlike(found.value, expected.value):
        problems.append(f"the run after it gave {unlike(found.value, expected.value)}")
    if found.video != expected.video:
        problems.append("the run after it made another video")
    files = found.files
    if "file" in expected.value:
        # A video of a run that was broken off is the user's; the new one has the next number.
        name = expected.value["file"]
        files = (files - {f"output/{name}"}) - ({f"output/{found.value['file']}"}) | {f"output/{name}"}
    more, fewer = (
        [name for name in sorted(names) if not OPTIONAL.search(name)]
        for names in (files - expected.files, expected.files - files)
    )
    problems += [f"left over: {name}" for name in more]
    return problems + [f"missing after the next run: {name}" for name in fewer]
