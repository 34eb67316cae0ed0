"""Errors of the runtime: what was given, what is allowed, what to do."""

import re

_SYSTEM = re.compile(r"(?:.*: )?(.+?) \(os error \d+\)")
"""How Rust's libraries (safetensors) end with what the system said."""

_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What no terminal or log can show, or what shows the rest in another order."""
LONGEST = 8000
"""Characters of a message; names in foreign files can be of any length."""


def printable(text: str) -> str:
    """`text` as every log and page can show it: control characters, marks of direction and halves of characters
    escaped, and its middle left out where it is very long."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} [{len(text) - LONGEST:,} characters left out] {text[-LONGEST // 2 :]}"
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class _PlainlyNamed(Exception):
    """ComfyUI shows an error's module in front of its class, and loads a pack under the path of its folder. The name
    of a class below this one stands alone, as those of Python's own errors do.

    The text may quote anything, from files and from other machines (`printable`).
    """

    def __init_subclass__(cls) -> None:
        cls.__module__ = "builtins"

    def __init__(self, text: object) -> None:
        super().__init__(printable(str(text)))


class InputError(_PlainlyNamed, ValueError):
    """The user gave something that cannot work; nothing has been started or written."""


class CheckpointError(InputError):
    """A weight file is unreadable, incomplete or of another architecture."""


class MachineError(_PlainlyNamed, RuntimeError):
    """The machine cannot do the work: memory, disk, a device, a worker or a codec is missing."""


class MemoryShortage(MachineError):
    """This computer has too little memory for a weight file, which itself may be good."""


def reason_of(error: BaseException) -> str:
    """What the system said, in words for a message that names the file itself: "No space left on device"."""
    said = getattr(error, "strerror", None)
    if said:
        return str(said)
    found = _SYSTEM.search(str(error))
    return found[1] if found else str(error) or type(error).__name__
