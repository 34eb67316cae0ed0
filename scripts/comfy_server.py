"""A ComfyUI process with its own base folder, started and stopped by the demo command and the tests."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from comfy_client import ComfyClient, ComfyError

ROOT = Path(__file__).resolve().parents[1]
PACK_NAME = "ComfyUI-LiveAvatar"
COPY_MARK = ".copied-by-comfy-server"
NOT_COPIED = (".git", ".venv", ".comfyui", "tests", "benchmarks", "__pycache__", ".*_cache")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def port_is_free(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def make_base(base: Path, beside: Sequence[Path] = ()) -> Path:
    """Makes a ComfyUI base folder that has this checkout as its only installed pack, but for those of `beside`."""
    for name in ("custom_nodes", "models", "input", "output", "user"):
        (base / name).mkdir(parents=True, exist_ok=True)
    packs = {PACK_NAME: ROOT, **{pack.name: pack for pack in beside}}
    for name, pack in packs.items():
        _install(pack, base / "custom_nodes" / name)
    return base


def _install(pack: Path, place: Path) -> None:
    """A link to the pack; a copy, made anew each time, where links need a privilege, as on Windows."""
    if place.is_symlink() and place.resolve() == pack:
        return
    if place.is_symlink():
        place.unlink()
    elif (place / COPY_MARK).is_file():
        shutil.rmtree(place)
    try:
        place.symlink_to(pack, target_is_directory=True)
    except OSError:
        shutil.copytree(pack, place, ignore=shutil.ignore_patterns(*NOT_COPIED))
        (place / COPY_MARK).touch()


class ComfyServer:
    """ComfyUI on a loopback port; a context manager that is ready inside and stopped after.

    `comfyui` is the folder of main.py, `base` one made by `make_base`. `output` replaces the base's output folder.
    Without `may_play_pieces` its pages ask no other server for anything, by a content security policy that also forbids
    them to play a video in pieces (MediaSource), which is how a live one comes without delay.
    """

    def __init__(
        self,
        comfyui: Path,
        base: Path,
        *,
        python: str = sys.executable,
        port: int | None = None,
        cpu: bool = True,
        output: Path | None = None,
        arguments: Sequence[str] = (),
        may_play_pieces: bool = False,
    ):
        self.comfyui, self.base = comfyui, base
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = ComfyClient(self.url)
        self.input = base / "input"
        self.output = output or base / "output"
        self.log = base / "server.log"
        self.command = [python, "main.py", *(["--cpu"] if cpu else []), "--base-directory", str(base)]
        self.command += ["--output-directory", str(self.output), "--database-url", "sqlite:///:memory:"]
        self.command += ["--disable-auto-launch", "--port", str(self.port), *arguments]
        if not may_play_pieces:
            self.command.append("--disable-api-nodes")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "ComfyServer":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, timeout: float = 180.0) -> None:
        """Starts the process and waits until it answers. Raises ComfyError with the end of its log if it does not."""
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self.command, cwd=self.comfyui, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + timeout
        while not self._answers():
            if self._process.poll() is not None:
                raise ComfyError(f"ComfyUI stopped with status {self._process.returncode}:\n{self.log_text()}")
            if time.monotonic() > deadline:
                raise ComfyError(f"ComfyUI did not start within {timeout:g} s:\n{self.log_text()}")
            time.sleep(0.1)
        if failed := self.failed_imports():
            raise ComfyError(f"ComfyUI started without all its nodes:\n{failed}")

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(self.url + "/system_stats", timeout=30).close()
        except (urllib.error.URLError, OSError):
            return False
        return True

    def log_text(self, lines: int = 60) -> str:
        """The last lines of the log, without colours; long lines are cut."""
        text = COLOUR.sub("", self.log.read_text(encoding="utf-8", errors="replace"))
        return "\n".join(line[:400] for line in text.splitlines()[-lines:])

    def failed_imports(self) -> str:
        """What the log says about node files that could not be imported, with the reason; "" when all could be."""
        text = self.log_text(10_000)
        if "IMPORT FAILED" not in text:
            return ""
        starts = [text.find(mark) for mark in ("Traceback", "Error while calling", "Cannot import", "IMPORT FAILED")]
        return text[min(start for start in starts if start >= 0) : text.find("\n", text.rfind("IMPORT FAILED"))]

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def process_id(self) -> int:
        """Of the running server."""
        assert self._process is not None
        return self._process.pid

    def wait(self) -> None:
        """Waits until the process ends."""
        if self._process:
            self._process.wait()

    def stop(self) -> None:
        """Ends the process; kills it when it does not end within ten seconds."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
