"""What several tests of the runtime share."""

import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from files_in_use import windows_rules
from worker_group import local_workers

from liveavatar_runtime.spool import lock_file
from liveavatar_workers.client.groups import LocalWorkers


@pytest.fixture(autouse=True)
def files_in_use_stay(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test of the runtime keeps Windows' rule for files, but those that do what only other systems allow."""
    if request.node.get_closest_marker("not_on_windows"):
        if os.name == "nt":
            pytest.skip("this does what Windows refuses")
        yield
        return
    monkeypatch.setattr(lock_file, "REMOVED_WHILE_OPEN", False)
    with windows_rules():
        yield


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """As many as each worker and each stage has: the order of a sum may depend on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def start_workers() -> Iterator[Callable[..., LocalWorkers]]:
    """`worker_group.local_workers`, whose groups end with the test, also when it fails before it has closed them."""
    started: list[weakref.ref[LocalWorkers]] = []

    def start(*arguments: Any, **options: Any) -> LocalWorkers:
        group = local_workers(*arguments, **options)
        # Weak, because a group that nobody holds must end by itself.
        started.append(weakref.ref(group))
        return group

    yield start
    for reference in started:
        group = reference()
        if group is not None:
            group.close()
