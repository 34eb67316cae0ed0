"""Errors of the runtime: what was given, what is allowed, what to do."""


class InputError(ValueError):
    """The user gave something that cannot work; nothing has been started or written."""


class CheckpointError(InputError):
    """A weight file is unreadable, incomplete or of another architecture."""


class MemoryShortage(CheckpointError):
    """This computer has too little memory for a weight file, which itself may be good."""


class MachineError(RuntimeError):
    """The machine cannot do the work: memory, disk, a device, a worker or a codec is missing."""
