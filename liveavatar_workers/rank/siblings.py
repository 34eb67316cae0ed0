"""Ranks that the same torchrun has started on this machine, and whether they are still there."""

import os
import socket

import psutil


def own_process() -> str:
    """This process, for `has_ended`."""
    return f"{os.getppid()} {os.getpid()} {socket.gethostname()}"


def has_ended(process: str) -> bool:
    """Whether a process that this one's parent started is gone, and the parent knows it; False for others, of which
    it cannot be known."""
    parent, number, host = process.split(maxsplit=2)
    return (int(parent), host) == (os.getppid(), socket.gethostname()) and not psutil.pid_exists(int(number))
