"""Errors of the runtime: what was given, what is allowed, what to do. And what to do about those of others."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Generic, TypeVar

Caught = TypeVar("Caught", bound=BaseException)

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


@contextmanager
def replaced(kinds: type[Caught] | tuple[type[Caught], ...], by: Callable[[Caught], BaseException]) -> Iterator[None]:
    """In here an error of these kinds is raised as the one that `by` makes of it, which has it as its cause; it passes
    where `by` returns it itself."""
    try:
        yield
    except kinds as error:
        better = by(error)
        if better is error:
            raise
        try:
            raise better from error
        finally:
            # With its traceback it would refer to itself by way of this frame, and keep what all of them hold.
            del better


@contextmanager
def on_failure(undo: Callable[[], object]) -> Iterator[None]:
    """Calls `undo` when anything ends what is in here before its end, also an interruption, which then goes on."""
    try:
        yield
    except BaseException:
        undo()
        raise


def handled(
    kinds: type[Caught] | tuple[type[Caught], ...], by: Callable[[Caught], object]
) -> "AbstractContextManager[None, bool]":
    """An error of these kinds ends what is in here, `by` is called with it, and the program goes on behind it."""
    return _Handled(kinds, by)


class _Handled(Generic[Caught]):
    def __init__(self, kinds: type[Caught] | tuple[type[Caught], ...], by: Callable[[Caught], object]) -> None:
        self._kinds, self._by = kinds, by

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, self._kinds):
            return False
        self._by(error)
        return True


def reason_of(error: BaseException) -> str:
    """What the system said, in words for a message that names the file itself: "No space left on device"."""
    said = getattr(error, "strerror", None)
    if said:
        return str(said)
    found = _SYSTEM.search(str(error))
    return found[1] if found else str(error) or type(error).__name__
