"""Groups of workers by name, from a file of the user: a shared workflow can make nobody's ComfyUI dial somewhere.

[studio]
address = 192.168.1.10:29600
key = the workers' public key
"""

import configparser
import re
from dataclasses import dataclass
from pathlib import Path

from liveavatar_runtime.errors import InputError, replaced

from ..addresses import parse_address
from ..keys import parse_key

ADDRESS, KEY = "address", "key"
EXAMPLE = "[NAME]\naddress = HOST:PORT\nkey = PUBLIC KEY"
LIKE_AN_ADDRESS = re.compile(r".*:\d+")


@dataclass(frozen=True)
class NamedGroup:
    """Where rank 0 of a group listens, and its public key."""

    address: tuple[str, int]
    key: bytes


def read_group(file: Path, name: str) -> NamedGroup:
    """The group of that name. Raises InputError, with what to write into the file, when there is none."""
    name = name.strip()
    groups = _read(file)
    if name in groups:
        where = f"{file}, [{name}]"
        missing = [entry for entry in (ADDRESS, KEY) if entry not in groups[name]]
        if missing:
            raise InputError(f"{where}: {' and '.join(missing)} is missing; a group is written as\n{EXAMPLE}")
        return NamedGroup(parse_address(groups[name][ADDRESS]), parse_key(groups[name][KEY], where))
    if LIKE_AN_ADDRESS.fullmatch(name):
        raise InputError(_refused_address(file, name, groups))
    known = (
        f"{file} has {', '.join(groups)}" if groups else f"{file} has none; a group is written into it as\n{EXAMPLE}"
    )
    raise InputError(f"workers is {name!r}, which is no name of a group; {known}")


def _read(file: Path) -> dict[str, dict[str, str]]:
    # Values may have a % in them, which is no reference here.
    parser = configparser.ConfigParser(interpolation=None)
    if file.is_file():
        with replaced(
            (configparser.Error, UnicodeDecodeError),
            lambda error: InputError(f"{file} cannot be read: {error}. A group is written as\n{EXAMPLE}"),
        ):
            parser.read_string(file.read_text(encoding="utf-8"), str(file))
    return {name: dict(parser[name]) for name in parser.sections()}


def _refused_address(file: Path, address: str, groups: dict[str, dict[str, str]]) -> str:
    names = [name for name, group in groups.items() if group.get(ADDRESS) == address]
    if names:
        return f"workers is {address!r}; an address is not taken from a workflow. Choose its name: {names[0]}"
    return (
        f"workers is {address!r}; an address is not taken from a workflow. Write these lines into {file} and set "
        f"workers to the name\n[NAME]\naddress = {address}\nkey = PUBLIC KEY (of the workers' file NAME.pub)"
    )
