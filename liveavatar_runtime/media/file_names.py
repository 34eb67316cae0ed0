"""Names of new files: what stands between percent signs, and what no system refuses.

A workflow is made on one system and run on another, so the rules of all of them hold everywhere.
"""

import re
import unicodedata
from collections.abc import Mapping
from datetime import datetime

from ..errors import InputError

EXAMPLE = "LiveAvatar/avatar"
FORBIDDEN = frozenset('<>:"|?*')
UNSEEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Unicode's categories of what cannot be seen in a name or changes how the rest of it is shown: control and format
characters (zero width, writing direction, escape), halves of surrogate pairs, separators of lines and paragraphs."""
RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE | re.DOTALL)
"""Names of devices on Windows, with any ending."""
MAX_NAME_BYTES = 255
"""Of a file or folder name, in UTF-8: the limit of the usual file systems of Linux; others allow as much or more."""
NUMBER_AND_ENDING = len("_00001_.webm")
"""What is put behind a prefix."""

PATTERN = re.compile(r"%(date:[^%]+|[^%./\\]+\.[^%./\\]+|\w+)%")
DATE_PARTS = re.compile("yyyy|yy|MM?|dd?|hh?|mm?|ss?")
DATE = "date:yyyy-MM-dd"
"""What %date% alone means."""
LATER = frozenset(("width", "height", "year", "month", "day", "hour", "minute", "second"))
"""What ComfyUI replaces itself when it makes the file's name."""


def expand(prefix: str, now: datetime, widgets: Mapping[str, str] | None = None) -> tuple[str, list[str]]:
    r"""The prefix with its patterns replaced and "/" between folders; and the patterns that nobody knows.

    `%date%`, `%date:yyyy-MM-dd%` (parts yyyy, yy, M, MM, d, dd, h, hh, m, mm, s, ss), and "%name.widget%" of
    `widgets`, given as {"name.widget": value}. A "\", which Windows takes between folders, means the same on every
    system.
    """
    unknown: list[str] = []

    def value(match: re.Match[str]) -> str:
        name = DATE if match[1] == "date" else match[1]
        if name.startswith("date:"):
            return date_text(name.removeprefix("date:"), now)
        if widgets is not None and name in widgets:
            # A value must not choose another folder.
            return "".join("_" if is_forbidden(letter) or letter in "/\\" else letter for letter in widgets[name])
        if name not in LATER:
            unknown.append(match[0])
        return match[0]

    return PATTERN.sub(value, prefix.replace("\\", "/")), unknown


def date_text(form: str, now: datetime) -> str:
    """A date or time in the form that ComfyUI's page knows."""
    parts = {"M": now.month, "d": now.day, "h": now.hour, "m": now.minute, "s": now.second}

    def value(match: re.Match[str]) -> str:
        part = match[0]
        if part[0] == "y":
            return f"{now.year:04}"[-len(part) :]
        return str(parts[part[0]]).zfill(len(part))

    return DATE_PARTS.sub(value, form)


def is_forbidden(character: str) -> bool:
    """Whether some system refuses it in names, or people cannot see it there."""
    return character in FORBIDDEN or unicodedata.category(character) in UNSEEN


def check_prefix(prefix: str, final: bool = False) -> None:
    """Raises InputError unless `prefix`, expanded, names a file in some folder on every system.

    What stands between percent signs may be replaced later by something else, unless the prefix is `final`.
    """
    names = prefix.split("/")
    if not prefix.strip() or not names[-1].strip():
        raise InputError(f"filename_prefix is {prefix!r}; it must end with a file name, such as {EXAMPLE}")
    for position, name in enumerate(names):
        if name in ("", ".", ".."):
            continue
        last = position == len(names) - 1
        problem = _problem(name, last, final)
        if problem:
            kind = "file" if last else "folder"
            raise InputError(f"filename_prefix {_shortened(prefix)!r}: the {kind} name {_shortened(name)!r} {problem}")


def _problem(name: str, last: bool, final: bool) -> str:
    """Why a name cannot be one, and what to do; or ""."""
    found = sorted(set(filter(is_forbidden, name if final else PATTERN.sub("", name))))
    if found:
        shown = " ".join(character if character.isprintable() else f"U+{ord(character):04X}" for character in found)
        return (
            f'has {shown}; these are not allowed: < > : " | ? * and characters that cannot be seen (control '
            "characters, zero width, marks of the writing direction). Leave them out."
        )
    if RESERVED.fullmatch(name):
        return "is the name of a device on Windows; take another one."
    # Behind the last name stand a number and an ending.
    if not last and name != name.rstrip(". "):
        return "ends with a dot or a space, which Windows leaves out; remove it."
    room = MAX_NAME_BYTES - (NUMBER_AND_ENDING if last else 0)
    size = len(name.encode())
    if size > room:
        return f"is {size} bytes long; {room} are allowed{' beside number and ending' if last else ''}. Shorten it."
    return ""


def _shortened(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[: length // 2]}...{text[-length // 2 :]}"
