"""A live session in a real ComfyUI, as its page and a program see it."""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from comfy_client import Event, RunResult
from comfy_server import ComfyServer
from prompt_builder import PromptBuilder

PATIENCE = 90.0
"""Seconds for what takes less than two."""
MARK = "Live page: "


@dataclass
class LiveRun:
    """A prompt with Live Out that runs in a thread of its own; `page` is the address of its live page."""

    server: ComfyServer
    prompt: PromptBuilder
    page: str = ""
    token: str = ""
    result: RunResult | None = None
    patience: float = PATIENCE
    """Seconds that the run may take."""
    _known: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "LiveRun":
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._known.wait(PATIENCE), "no page was told"
        return self

    def __exit__(self, *_: object) -> None:
        self.control(do="stop")
        self.end()

    def end(self) -> RunResult:
        """What the run gave when it was over."""
        self._thread.join(PATIENCE)
        assert self.result is not None, "the session goes on though it was stopped"
        return self.result

    def _run(self) -> None:
        try:
            self.result = self.server.client.run(
                self.prompt.nodes, workflow=self.prompt.workflow, on_event=self._note, timeout=self.patience
            )
        finally:
            self._known.set()

    def _note(self, event: Event) -> None:
        if event.kind != "executed":
            return
        for line in (event.data.get("output") or {}).get("liveavatar_notes", []):
            if line.startswith(MARK):
                self.page = line.removeprefix(MARK)
            if " with the token " in line:
                self.token = line.rpartition(" ")[2]
                self._known.set()

    def ask(
        self, path: str, data: bytes | None = None, origin: str | None = "own", token: str = "", address: str = ""
    ) -> tuple[int, Any]:
        """Status, and JSON or text; origin None: a program."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if origin is not None:
            headers["Origin"] = self.server.url if origin == "own" else origin
        request = urllib.request.Request((address or self.page) + path, data=data, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, _parsed(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, _parsed(error.read())

    def control(self, **message: Any) -> tuple[int, Any]:
        return self.ask("/control", json.dumps(message).encode())

    def state(self) -> dict[str, Any]:
        status, state = self.ask("/state")
        assert status == 200, state
        return state

    def until(self, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The session's state when it is so."""
        ends = time.monotonic() + PATIENCE
        while not reached(state := self.state()):
            assert time.monotonic() < ends, state
            assert self.result is None, self.result and self.result.error
            time.sleep(0.05)
        return state


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data.decode()
