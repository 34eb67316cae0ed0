"""What other processes do to locks and spools. A spawned process imports a module by its name, so it is no test."""

import os
from pathlib import Path

import torch

from liveavatar_runtime.spool.lock_file import LockFile
from liveavatar_runtime.spool.store import SpoolStore


def hammer(path: Path, times: int) -> None:
    """Take and leave the lock so many times; fails when another one is in it at the same time."""
    inside = path.with_name("inside")
    while times:
        lock = LockFile(path)
        if lock.acquire():
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
            inside.unlink()
            lock.release()
            times -= 1


def come_and_go(root: str) -> None:
    """A second server on the same folder, which makes and clears spools until it is told to stop."""
    store, number = SpoolStore(Path(root)), 0
    while not (store.root / "stop").exists():
        number += 1
        spool = store.open(f"{number % 20:032x}", {"number": number})
        assert spool.try_lock()
        spool.write_clip(0, torch.zeros(4))
        spool.unlock()
        if not number % 10:
            store.make_room("none", 0, 1)
