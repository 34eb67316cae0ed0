"""The key-value server over which ranks find and watch each other."""

import os
from contextlib import suppress
from typing import Any

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore
from torch.distributed.rendezvous import rendezvous

from ..addresses import LOOPBACK

LISTENING_KEY = "listening"
"""Where rank 0 puts the port at which it waits for ComfyUI."""


def serve_store(listening_fd: int, port: int) -> Store:
    """A server on a socket that listens already."""
    options: dict[str, Any] = {"is_master": True, "wait_for_workers": False, "master_listen_fd": listening_fd}
    # The newer of PyTorch's two servers takes sockets only in newer versions.
    with suppress(NotImplementedError):
        return TCPStore(LOOPBACK, port, **options)
    return TCPStore(LOOPBACK, port, **options, use_libuv=False)


def open_store(port: int | None) -> Store:
    """The launcher's server on this machine, or the one that torchrun tells of in the environment."""
    if port is not None:
        return TCPStore(LOOPBACK, port, is_master=False, wait_for_workers=False)
    # torchrun may restart the workers with the same server, which still knows what the ones before wrote.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"attempt {attempt}", next(rendezvous("env://"))[0])
