"""Runs a scenario once for each fault, each time in a forked process, and then again undisturbed."""

import json
import mmap
import os
import pickle
import shutil
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from . import shim
from .outcome import Crash, Found, Outcome, Told, problems_of
from .scenarios import Parts, Place, Scenario
from .shim import Call, Shim, Site

LONGEST_SECONDS = 600
"""Only what hangs takes so long, also on a busy machine."""


@dataclass(frozen=True)
class Fault:
    """What is done at the n-th call of a scenario."""

    scenario: str
    mode: int
    number: int
    site: Site
    error: int = 0

    def __str__(self) -> str:
        error = f" ({os.strerror(self.error)})" if self.error else ""
        return f"{self.scenario}: {shim.MODES[self.mode]}{error} at call {self.number}, {self.site}"


class Shared:
    """A page that a forked process writes and that outlives it: frames written, and the call that was hit."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)

    def clear(self) -> None:
        self._page[:] = bytes(len(self._page))

    def set_frames(self, frames: int) -> None:
        self._page[:8] = frames.to_bytes(8, "little")

    def set_site(self, site: Site) -> None:
        text = json.dumps([site.function, site.file, site.caller]).encode()[: mmap.PAGESIZE - 8]
        self._page[8 : 8 + len(text)] = text

    @property
    def frames(self) -> int:
        return int.from_bytes(self._page[:8], "little")

    @property
    def site(self) -> Site | None:
        text = self._page[8:].rstrip(b"\0")
        return Site(*json.loads(text)) if text else None


@dataclass
class Laboratory:
    """Folders, the shim, and what is known of each scenario undisturbed."""

    folder: Path
    shim: Shim
    parts: Parts | None
    shared: Shared = field(default_factory=Shared)
    calls: dict[str, list[Call]] = field(default_factory=dict)
    expected: dict[str, Found] = field(default_factory=dict)
    _runs: int = 0

    def learn(self, scenario: Scenario) -> None:
        """Prepare it once and run it undisturbed, noting its calls."""
        parts: Any = self.parts
        template = Place(self.folder / "templates" / scenario.name)
        template.make()
        prepared = self.forked(lambda: scenario.prepare(parts, template))
        assert not isinstance(prepared, Crash), f"{scenario.name}, prepared: {prepared}"
        place = self.fresh(scenario)

        def run() -> tuple[Found, list[Call]]:
            calls: list[Call] = []
            with self.shim.armed(shim.COUNT, 0, 0, calls.append):
                value = scenario.run(parts, place)
                self.shim.end()
            return Found.at(place, value), calls

        found = self.forked(run)
        assert not isinstance(found, Crash), f"{scenario.name}, undisturbed: {found}"
        self.expected[scenario.name], self.calls[scenario.name] = found
        shutil.rmtree(place.root)

    def fresh(self, scenario: Scenario) -> Place:
        """A copy of what was prepared, below the folder that is watched."""
        self._runs += 1
        template = self.folder / "templates" / scenario.name
        place = Place(self.shim.root / f"{self._runs:06}", self.shared.set_frames, template)
        shutil.copytree(template, place.root)
        return place

    def inject(self, scenario: Scenario, fault: Fault) -> tuple[Site | None, list[str]]:
        """One fault and the run after it: the call that was hit, None if it was not made, and what is wrong."""
        place, parts = self.fresh(scenario), cast(Any, self.parts)
        self.shared.clear()

        def note(call: Call) -> None:
            if call.number == fault.number:
                self.shared.set_site(call.site)

        def disturbed() -> dict[str, Any] | Told:
            with self.shim.armed(fault.mode, fault.number, fault.error, note):
                try:
                    value = scenario.run(parts, place)
                    self.shim.end()
                except Exception as error:
                    return Told.of(error)
            return value

        def looked_at(result: dict[str, Any] | Told | Crash) -> list[str]:
            outcome = Outcome(fault.mode, result, self.shared.frames, self.shared.site)
            return problems_of(scenario, parts, place, outcome, self.expected[scenario.name])

        # Who survives goes on in the same process, as ComfyUI does.
        found = self.forked(lambda: looked_at(disturbed()))
        if isinstance(found, Crash):
            crash = found
            found = self.forked(lambda: looked_at(crash))
        problems = [f"the look at it: {found}"] if isinstance(found, Crash) else found
        site = self.shared.site
        shutil.rmtree(place.root)
        return site, problems

    def forked(self, work: Callable[[], Any]) -> Any:
        """What a forked process returns; Crash when it does not come to its end."""
        result = self.folder / "result"
        result.unlink(missing_ok=True)
        process = os.fork()
        if not process:
            _work_and_leave(work, result)
        _, status = os.waitpid(process, 0)
        return pickle.loads(result.read_bytes()) if result.exists() else Crash(status)


def _work_and_leave(work: Callable[[], Any], result: Path) -> None:
    """Nothing of the parent may run in the forked process: no handler at its end, no test runner."""
    signal.alarm(LONGEST_SECONDS)
    try:
        found = work()
    except BaseException:
        found = Crash(-1, traceback.format_exc())
    result.write_bytes(pickle.dumps(found))
    os._exit(0)
