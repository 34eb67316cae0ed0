"""Addresses as a user writes them."""

from liveavatar_runtime.errors import InputError

LOOPBACK = "127.0.0.1"


def parse_address(text: str) -> tuple[str, int]:
    """("host", port) of "host:port" or "[v6]:port". Raises InputError for anything else."""
    host, _, port = text.strip().rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and len(port) < 6) or not int(port) <= 65535:
        raise InputError(f"{text!r} is not an address of workers; write host:port, such as 192.168.1.2:29600")
    return host.strip("[]"), int(port)
