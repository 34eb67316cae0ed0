"""The network card over which ranks find and compute with each other.

PyTorch's ports there have no authentication and no encryption, so nobody else may reach them.
"""

import ipaddress
import os
import socket
import sys
from collections.abc import MutableMapping
from contextlib import suppress

from liveavatar_runtime.errors import InputError

GLOO, NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"
LOOPBACK_CARDS = {"linux": "lo", "darwin": "lo0"}


def use_interface(environment: MutableMapping[str, str] = os.environ) -> str:
    """The card's name: the loopback one on a single machine, else the one that the user has named.

    Raises InputError when ranks on several machines meet and no card was named.
    """
    if environment.get(GLOO):
        return environment[GLOO]
    main = environment.get("MASTER_ADDR", "localhost")
    if not is_loopback(main):
        raise InputError(
            f"ranks meet at {main}, and PyTorch's ports between them have no authentication: name the card of a "
            f"private network, such as {GLOO}=eth0 {NCCL}=eth0"
        )
    card = LOOPBACK_CARDS.get(sys.platform, "")
    if card:
        for variable in (GLOO, NCCL):
            environment.setdefault(variable, card)
    return card


def is_loopback(host: str) -> bool:
    """Whether all addresses of a host are this machine's own, which others cannot reach."""
    with suppress(OSError):
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
        return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in found)
    return False
