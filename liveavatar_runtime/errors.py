"""Errors of the runtime: what was given, what is allowed, what to do."""


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
