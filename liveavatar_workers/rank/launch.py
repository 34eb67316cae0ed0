"""The launcher: starts the ranks of one machine with torch.distributed elastic, and ends with ComfyUI.

It is a process of its own, so that elastic's signal handlers and children stay out of ComfyUI's. Standard input is a
pipe from ComfyUI; when it ends, all processes end. Standard output carries one JSON object a line,
those of `launcher_events`.
"""

import argparse
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import fields
from datetime import timedelta
from typing import Any

import msgspec
import psutil
from torch._C._distributed_c10d import Store
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from liveavatar_runtime.errors import handled

from ..addresses import LOOPBACK
from ..launcher_events import Failed, LauncherEvent, Listening
from ..messages import Failure
from .lifetime import when_input_ends
from .store import LISTENING_KEY, open_store, serve_store

Report = Callable[[LauncherEvent], None]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("program", nargs="+", help="arguments of Python that run a worker")
    options = parser.parse_args(arguments)
    report = _take_over_output()
    when_input_ends(_end_all)
    # Only processes of this machine use the store, so it is not to be reached from elsewhere.
    listening = socket.create_server((LOOPBACK, 0))
    port = listening.getsockname()[1]
    store = serve_store(listening.detach(), port)
    threading.Thread(target=_report_listening, args=(port, report), daemon=True).start()

    def failed(error: Exception) -> None:
        if isinstance(error, ChildFailedError):
            ended = {rank: failure.exitcode for rank, failure in error.failures.items()}
            report(Failed(ended=ended, reports=_reports(store)))
        else:
            report(Failed(message=f"{type(error).__name__}: {error}"))

    with handled(Exception, failed):
        _launch(options.ranks, [*options.program, "--store-port", str(port)])
        return 0
    return 1


def _launch(ranks: int, program: list[str]) -> None:
    _prepare_environment(ranks)
    # Elastic's own store would listen on all interfaces; for one launcher a file is enough, and it needs no name.
    with tempfile.TemporaryFile() as rendezvous:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=ranks,
            run_id="liveavatar",
            rdzv_backend="c10d",
            rdzv_endpoint=f"/dev/fd/{rendezvous.fileno()}",
            rdzv_configs={"store_type": "file"},
            local_addr=LOOPBACK,
            max_restarts=0,
            monitor_interval=0.1,
            logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
            **_soon_ended(),
        )
        elastic_launch(config, sys.executable)(*program)


def _soon_ended() -> dict[str, Any]:
    """Setting of elastic, since PyTorch 2.12: ranks that are told to end and do not are killed after a second."""
    known = {field.name for field in fields(LaunchConfig)}
    return {"shutdown_timeout": 1} if "shutdown_timeout" in known else {}


def _prepare_environment(ranks: int) -> None:
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // ranks)))


def _take_over_output() -> Report:
    """What reports an event to ComfyUI. Everything that is printed goes to standard error from now on."""
    pipe = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.set_inheritable(pipe.fileno(), False)
    os.dup2(2, 1)
    lock = threading.Lock()

    def report(event: LauncherEvent) -> None:
        with lock:
            print(msgspec.json.encode(event).decode(), file=pipe)

    return report


def _report_listening(port: int, report: Report) -> None:
    store = open_store(port)
    store.wait([LISTENING_KEY], timedelta(days=1))
    report(Listening(port=int(store.get(LISTENING_KEY))))


def _reports(store: Store) -> list[Failure]:
    """What the ranks reported themselves before they ended."""
    places = [f"failure/{number + 1}" for number in range(store.add("failures", 0))]
    # A rank that was ended after it took a number has written nothing there, and `get` would wait for minutes.
    return [msgspec.json.decode(store.get(place), type=Failure) for place in places if store.check([place])]


def _end_all() -> None:
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
