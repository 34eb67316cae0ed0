"""Workers as ComfyUI's process sees them: a group that it starts on this machine, or one that listens elsewhere."""

import contextlib
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

import liveavatar_runtime
from liveavatar_runtime.errors import MachineError, handled, replaced

from ..addresses import LOOPBACK
from ..failures import Ended, describe
from ..keys import CLIENTS_VARIABLE, KEY_VARIABLE, KeyPair
from ..launcher_events import Failed, LauncherEvent, Listening
from ..messages import DecoderAbout, ToComfyUI
from ..wire.client import CLOSED, Client, NobodyListens
from ..wire.endpoint import ConnectionLost
from .connection import Connection, Poll

PACK_ROOT = Path(liveavatar_runtime.__file__).parents[1]
"""Where the runtime is; workers use the same copy."""
LAUNCHER = "liveavatar_workers.rank.launch"
WORKER = ("-m", "liveavatar_workers.rank.worker")
DECODER_OPTION = "--vae"
REASON_SECONDS = 30.0
"""How long to wait, after the workers fell silent, for the launcher to say why. It says so as soon as all ranks have
ended, which takes a second, and many times that on a machine that is busy."""
RANK_0_GONE = f"rank 0 ended without a word, as when it is killed, or is out of reach: {CLOSED}"
"""Under torchrun: it stays until it has told what it knows."""
START_SECONDS, LOAD_SECONDS, CONNECT_SECONDS = 120.0, 1800.0, 60.0


class Workers(Protocol):
    """Where a RemoteExecutor's runs are computed."""

    def connection(self, poll: Poll) -> Connection:
        """A connection to workers that have loaded the model; starts them if need be. Raises MachineError."""
        ...

    def failure(self, connection: Connection) -> MachineError:
        """Why the connection was lost, for the user; what is left of the group is ended."""
        ...

    def decoder(self, poll: Poll, connect: bool) -> DecoderAbout | None:
        """What is known of the rank that decodes; None without one. `connect`: also if there is no connection now."""
        ...

    def close(self) -> None:
        """Let go of the workers; may be called again."""
        ...


def loss_explained(workers: Workers, connection: Connection) -> contextlib.AbstractContextManager[None]:
    """When the connection to the workers is lost in here, it ends with what they say, or the system says of them."""
    return replaced(ConnectionLost, lambda error: workers.failure(connection))


class LocalWorkers:
    """A group on this machine, started when it is first needed and kept until `close`, garbage collection or exit.

    `arguments`: of the worker, model and devices among them; `program`: arguments of Python that run it.
    """

    def __init__(
        self,
        ranks: int,
        arguments: Sequence[str],
        program: Sequence[str] = WORKER,
        start_timeout: float = START_SECONDS,
        load_timeout: float = LOAD_SECONDS,
    ) -> None:
        self._ranks, self._arguments, self._program = ranks, list(arguments), list(program)
        self._start_timeout, self._load_timeout = start_timeout, load_timeout
        self._groups: list[_Group] = []
        self._told: tuple[Connection, MachineError] | None = None
        self._telling = threading.Lock()
        # Also at the interpreter's exit.
        self._finalizer = weakref.finalize(self, _end_groups, self._groups)

    def connection(self, poll: Poll) -> Connection:
        if self._groups and self._groups[0].connection is not None and self._groups[0].connection.lost is None:
            return self._groups[0].connection
        self.close()
        group = _Group(self._ranks, [*self._program, *self._arguments])
        self._groups.append(group)

        def ended(error: BaseException) -> BaseException:
            if isinstance(error, ConnectionLost):
                return self._failed(str(error))
            self.close()
            return error

        with replaced(BaseException, ended):
            return group.connect(self._start_timeout, self._load_timeout, poll)

    def failure(self, connection: Connection) -> MachineError:
        # What samples and what decodes both ask, and the group that knows the reason is gone after the first time.
        with self._telling:
            if self._told is None or self._told[0] is not connection:
                self._told = connection, self._failed(connection.lost or "the connection was closed")
            return MachineError(*self._told[1].args)

    def decoder(self, poll: Poll, connect: bool) -> DecoderAbout | None:
        if DECODER_OPTION not in self._arguments or not (connect or self._groups):
            return None
        return self.connection(poll).about.vae

    def _failed(self, otherwise: str) -> MachineError:
        if not self._groups:
            return MachineError(describe([], {}, "they were ended by this process"))
        group = self._groups[0]
        if not group.knows_cause:
            group.stopped.wait(REASON_SECONDS)
        text = group.reason(otherwise)
        self.close()
        return MachineError(text)

    @property
    def pid(self) -> int | None:
        """Process id of the launcher, while there is one."""
        return self._groups[0].process.pid if self._groups else None

    def close(self) -> None:
        _end_groups(self._groups)


class _Group:
    """One launcher and its ranks, from start to end."""

    def __init__(self, ranks: int, program: list[str]) -> None:
        self._own, self._theirs = KeyPair.new(), KeyPair.new()
        self.connection: Connection | None = None
        self.stopped = threading.Event()
        """Set when the launcher has said its last word."""
        self._listening = threading.Event()
        self._port = 0
        self._last = Failed()
        paths = [str(PACK_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        # Other users of this machine see commands, but not environments.
        keys = {KEY_VARIABLE: self._theirs.secret.hex(), CLIENTS_VARIABLE: self._own.public.hex()}
        self.process = subprocess.Popen(
            [sys.executable, "-m", LAUNCHER, "--ranks", str(ranks), "--", *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            cwd=PACK_ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **keys},
        )
        threading.Thread(target=self._follow, daemon=True, name="launcher").start()

    def _follow(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = msgspec.json.decode(line, type=LauncherEvent)
            if isinstance(event, Listening):
                self._port = event.port
                self._listening.set()
            else:
                self._last = event
        self.stopped.set()
        self._listening.set()

    def connect(self, start_timeout: float, load_timeout: float, poll: Poll) -> Connection:
        deadline = time.monotonic() + start_timeout
        while not self._listening.wait(0.1):
            poll()
            if time.monotonic() > deadline:
                raise MachineError(f"rank 0 of the workers did not start within {start_timeout:g} s")
        if not self._port:
            raise ConnectionLost("the launcher of the workers ended")
        self.connection = Connection(Client((LOOPBACK, self._port), self._own, self._theirs.public, ToComfyUI))
        self.connection.wait_until_ready(load_timeout, poll)
        return self.connection

    @property
    def knows_cause(self) -> bool:
        """Whether the workers have told why they end."""
        return self.connection is not None and any(not failure.consequence for failure in self.connection.failures)

    def reason(self, otherwise: str) -> str:
        failures = self._last.reports or (self.connection.failures if self.connection is not None else [])
        ended = {rank: Ended(code) for rank, code in self._last.ended.items()}
        return describe(failures, ended, self._last.message or otherwise)

    def end(self) -> None:
        """No process is left afterwards."""
        if self.connection is not None:
            self.connection.close()
        assert self.process.stdin is not None and self.process.stdout is not None
        # The launcher and every rank end when their standard input does.
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.stopped.wait(1)


def _end_groups(groups: list[_Group]) -> None:
    while groups:
        groups.pop().end()


class RemoteWorkers:
    """A group that somebody started with torchrun; rank 0 listens at `address`. It stays when this goes.

    `pair`: of this ComfyUI; `server_key`: the workers' public one. A group serves one ComfyUI at a time: another one
    whose key is listed takes it over.
    """

    def __init__(
        self,
        address: tuple[str, int],
        pair: KeyPair,
        server_key: bytes,
        connect_timeout: float = CONNECT_SECONDS,
        load_timeout: float = LOAD_SECONDS,
    ) -> None:
        self._address, self._pair, self._server_key = address, pair, server_key
        self._connect_timeout, self._load_timeout = connect_timeout, load_timeout
        self._connections: list[Connection] = []
        self._finalizer = weakref.finalize(self, _close_connections, self._connections)

    def connection(self, poll: Poll) -> Connection:
        if self._connections and self._connections[0].lost is None:
            return self._connections[0]
        self.close()
        connection = Connection(self._connect(poll))
        self._connections.append(connection)
        with loss_explained(self, connection):
            connection.wait_until_ready(self._load_timeout, poll)
        return connection

    def _connect(self, poll: Poll) -> Client:
        """torchrun may be starting the workers again, after a failure."""
        deadline = time.monotonic() + self._connect_timeout

        def try_again(error: NobodyListens) -> None:
            if time.monotonic() > deadline:
                raise error

        while True:
            with handled(NobodyListens, try_again):
                return Client(self._address, self._pair, self._server_key, ToComfyUI)
            poll()
            time.sleep(0.2)

    def decoder(self, poll: Poll, connect: bool) -> DecoderAbout | None:
        connected = self._connections and self._connections[0].lost is None
        return self.connection(poll).about.vae if connect or connected else None

    def failure(self, connection: Connection) -> MachineError:
        self.close()
        why = connection.lost or "the connection was closed"
        return MachineError(describe(connection.failures, {}, RANK_0_GONE if why == CLOSED else why))

    def close(self) -> None:
        _close_connections(self._connections)


def _close_connections(connections: list[Connection]) -> None:
    while connections:
        connections.pop().close()
