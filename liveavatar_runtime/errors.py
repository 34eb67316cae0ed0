"""Errors of the runtime: what was given, what is allowed, what to do."""

import re

_SYSTEM = re.compile(r"(?:.*: )?(.+?) \(os error \d+\)")
"""How Rust's libraries (safetensors) end with what the system said."""


class _PlainlyNamed:
    """ComfyUI shows an error's module in front of its class, and loads a pack under the path of its folder. The name
    of a class below this one stands alone, as those of Python's own errors do."""

    def __init_subclass__(cls) -> None:
        cls.__module__ = "builtins"


class InputError(_PlainlyNamed, ValueError):
    """The user gave something that cannot work; nothing has been started or written."""


class CheckpointError(InputError):
    """A weight file is unreadable, incomplete or of another architecture."""


class MemoryShortage(CheckpointError):
    """This computer has too little memory for a weight file, which itself may be good."""


class MachineError(_PlainlyNamed, RuntimeError):
    """The machine cannot do the work: memory, disk, a device, a worker or a codec is missing."""


def reason_of(error: BaseException) -> str:
    """What the system said, in words for a message that names the file itself: "No space left on device"."""
    said = getattr(error, "strerror", None)
    if said:
        return str(said)
    found = _SYSTEM.search(str(error))
    return found[1] if found else str(error) or type(error).__name__
