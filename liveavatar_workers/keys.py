"""Keys of the connection between ComfyUI and the workers: `python -m liveavatar_workers.keys NAME`.

Each side has a pair of CURVE keys. Its secret half is in a file that only its owner may read, NAME.key; the public half
is for the other side, NAME.pub. Both are 64 hexadecimal digits in a line; a line that begins with # says something.
"""

import argparse
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from liveavatar_runtime.errors import InputError

from .private_files import check_private, write_private

SECRET, PUBLIC = ".key", ".pub"
HEX_DIGITS = 64
KEY_VARIABLE, CLIENTS_VARIABLE = "LIVEAVATAR_WORKERS_KEY", "LIVEAVATAR_WORKERS_CLIENTS"
"""Where workers that ComfyUI starts find their secret key, and the public key of that ComfyUI."""


@dataclass(frozen=True)
class KeyPair:
    """32 bytes each."""

    public: bytes
    secret: bytes = field(repr=False)

    @classmethod
    def new(cls) -> "KeyPair":
        public, secret = zmq.curve_keypair()
        return cls(_raw(public), _raw(secret))

    @classmethod
    def of_secret(cls, secret: bytes) -> "KeyPair":
        return cls(_raw(zmq.curve_public(_z85(secret))), secret)


def _raw(text: bytes) -> bytes:
    from zmq.utils import z85

    return z85.decode(text)


def _z85(raw: bytes) -> bytes:
    from zmq.utils import z85

    return z85.encode(raw)


def parse_key(text: str, where: str) -> bytes:
    """The key that a text is. Raises InputError, which does not show it."""
    if not re.fullmatch(rf"[0-9a-fA-F]{{{HEX_DIGITS}}}", text.strip()):
        raise InputError(
            f"{where} has no key: one is {HEX_DIGITS} hexadecimal digits, as python -m liveavatar_workers.keys makes "
            "them"
        )
    return bytes.fromhex(text.strip())


def read_pair(file: Path) -> KeyPair:
    """Of a file NAME.key. Raises InputError when it is missing, has no key, or others may read it."""
    if not file.is_file():
        raise InputError(
            f"the key {file} is missing; make one with: python -m liveavatar_workers.keys {file.with_suffix('')}"
        )
    check_private(file)
    lines = _lines(file)
    if len(lines) != 1:
        raise InputError(f"{file} has {len(lines)} keys; it must have one")
    return KeyPair.of_secret(parse_key(lines[0], str(file)))


def read_public_keys(file: Path) -> set[bytes]:
    """Of a file NAME.pub, to which others may have been appended. Raises InputError when there is none."""
    if not file.is_file():
        raise InputError(
            f"{file} is missing; it holds the public key of each ComfyUI that may use the workers, one a line"
        )
    keys = {parse_key(line, str(file)) for line in _lines(file)}
    if not keys:
        raise InputError(f"{file} has no key; without the public key of a ComfyUI nobody may use the workers")
    return keys


def _lines(file: Path) -> list[str]:
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def make_files(name: Path) -> tuple[Path, Path]:
    """NAME.key and NAME.pub with a new pair. Raises InputError when one of them is there."""
    secret, public = (name.with_name(name.name + ending) for ending in (SECRET, PUBLIC))
    for file in (secret, public):
        if file.exists():
            raise InputError(f"{file} exists; give another name, or remove it (who has its key must get the new one)")
    pair = KeyPair.new()
    write_private(
        secret,
        f"# Secret key of {name.name} for liveavatar_workers; only its owner may read it.\n{pair.secret.hex()}\n",
    )
    public.write_text(f"# {name.name}\n{pair.public.hex()}\n", encoding="utf-8")
    return secret, public


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m liveavatar_workers.keys", description=__doc__)
    parser.add_argument("name", type=Path, help="where to write NAME.key and NAME.pub")
    name = parser.parse_args(arguments).name
    try:
        secret, public = make_files(name)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    key = read_public_keys(public).pop().hex()
    print(
        f"{secret}: secret. {public}: for the other side.{os.linesep}"
        f"For workers: start them with --key {secret}, and in ComfyUI's user/liveavatar-workers.ini write\n"
        f"    [{name.name}]\n    address = HOST:PORT\n    key = {key}\n"
        f"For ComfyUI: put {secret.name} there as user/liveavatar-comfyui.key, and start the workers with "
        f"--clients {public}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
