"""Locks whose files go with their holders: never two holders, nothing left over."""

import multiprocessing

import pytest
from other_processes import hammer

from liveavatar_runtime.spool.lock_file import LockFile


def test_several_processes_on_one_lock(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=hammer, args=(tmp_path / "lock", 400)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4, "two had it at once"
    assert not list(tmp_path.iterdir())


def test_two_objects_of_one_process(tmp_path):
    first, second = LockFile(tmp_path / "lock"), LockFile(tmp_path / "lock")
    assert first.acquire() and first.acquire() and not second.acquire() and not second.acquired
    first.release()
    first.release()
    assert second.acquire() and not first.acquire()
    del second
    assert first.acquire()
    first.release()
    assert not list(tmp_path.iterdir())


@pytest.mark.not_on_windows
def test_nobody_removes_the_file_of_another_holder(tmp_path):
    """Somebody removes a held file by hand, so the next one makes its own, which must stay when the first lets go."""
    first, second = LockFile(tmp_path / "lock"), LockFile(tmp_path / "lock")
    assert first.acquire()
    (tmp_path / "lock").unlink()
    assert second.acquire()
    first.release()
    assert not first.acquire()
    second.release()
    assert not list(tmp_path.iterdir())


def test_where_no_lock_can_be(tmp_path):
    with pytest.raises(OSError):
        LockFile(tmp_path / "none" / "lock").acquire()
