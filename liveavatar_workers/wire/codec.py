"""A message as bytes: a header (msgpack), and behind it the bytes of its tensors.

In the header a tensor is (dtype, shape); the tensors' bytes come in the order of the header. Numbers and sizes are
checked before memory is taken. Tensors are filled as PyTorch allocates them, because the last bits of products depend
on where their operands lie (`liveavatar_runtime.aligned`).
"""

import math
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar

import msgspec
import torch
from torch import Tensor

from liveavatar_runtime.dtypes import dtype_name
from liveavatar_runtime.errors import InputError, MachineError, replaced

from ..message import Message

HEADER_BYTES = 4 * 2**20
BODY_BYTES = 16 * 2**30
"""Of all tensors of a message; frames of a block at 1280x720 in float32 are 133 MB."""
MAX_TENSORS, MAX_DIMENSIONS = 4096, 8
WIRE_DTYPES = {
    dtype_name(dtype): dtype
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.uint8)
}
Kind = TypeVar("Kind", bound=Message)


class MessageError(MachineError):
    """A message cannot be read; the text names its type and field."""


@dataclass(frozen=True)
class Encoded:
    """`tensors`: on the CPU and without gaps; nobody writes into them any more."""

    header: bytes
    tensors: list[Tensor]


def encode(message: Message) -> Encoded:
    """Waits for tensors of other devices. Raises InputError for one that does not travel."""
    tensors: list[Tensor] = []

    def described(value: Any) -> Any:
        if isinstance(value, Fraction):
            return str(value)
        tensors.append(value.detach().to("cpu").contiguous())
        return dtype_to_send(value), list(value.shape)

    header = msgspec.msgpack.encode(message, enc_hook=described)
    if len(header) > HEADER_BYTES:
        raise InputError(f"a message header of {len(header):,} bytes is above the limit of {HEADER_BYTES:,}")
    return Encoded(header, tensors)


def dtype_to_send(tensor: Tensor) -> str:
    name = dtype_name(tensor.dtype)
    if name not in WIRE_DTYPES:
        raise InputError(
            f"tensors of {tensor.dtype} do not travel between processes; allowed are {', '.join(WIRE_DTYPES)}"
        )
    return name


class Incoming:
    """Makes the tensors of a message while its header is read."""

    def __init__(self) -> None:
        self._left = BODY_BYTES
        self.tensors: list[Tensor] = []

    def make(self, kind: type, value: Any) -> Any:
        """For msgspec, which names the field when this raises ValueError."""
        if kind is Fraction:
            return _fraction(value)
        dtype, shape = _described(value)
        size = math.prod(shape) * dtype.itemsize
        if len(self.tensors) >= MAX_TENSORS:
            raise ValueError(f"more than {MAX_TENSORS} tensors were announced")
        if size > self._left:
            raise ValueError(f"tensors of more than {BODY_BYTES:,} bytes were announced")
        self._left -= size
        self.tensors.append(torch.empty(shape, dtype=dtype))
        return self.tensors[-1]


def _fraction(value: Any) -> Fraction:
    with replaced((TypeError, ZeroDivisionError), lambda error: ValueError(f"{value!r} is no fraction")):
        return Fraction(value)


def _described(value: Any) -> tuple[torch.dtype, list[int]]:
    name, shape = value if isinstance(value, list) and len(value) == 2 else (None, None)
    if not isinstance(name, str) or name not in WIRE_DTYPES or not isinstance(shape, list):
        raise ValueError(f"a tensor is told by one of {', '.join(WIRE_DTYPES)} and its shape")
    if len(shape) > MAX_DIMENSIONS or not all(type(side) is int and 0 <= side <= BODY_BYTES for side in shape):
        raise ValueError("a tensor of an impossible shape was announced")
    return WIRE_DTYPES[name], shape


def read_header(header: bytes, kinds: Any, incoming: Incoming) -> Any:
    """The message of a header, one of `kinds`; its tensors are still to be filled. Raises MessageError."""
    with replaced(
        (ValueError, RecursionError),
        lambda error: MessageError(f"a message{_named(header)} cannot be read: {error}"),
    ):
        if len(header) > HEADER_BYTES:
            raise ValueError(f"its header has {len(header):,} bytes; allowed are {HEADER_BYTES:,}")
        return msgspec.msgpack.decode(header, type=kinds, dec_hook=incoming.make)


def check(message: Message) -> None:
    """Raises MessageError for values that cannot be meant."""
    wrong = f"a message '{message.__struct_config__.tag}' is wrong"
    with replaced(ValueError, lambda error: MessageError(f"{wrong}: {error}")):
        message.check()


def _named(header: bytes) -> str:
    """The type that a header gives itself, for an error."""
    with suppress(ValueError, RecursionError):
        return f" {msgspec.msgpack.decode(header, type=_OnlyType).type[:40]!r}"
    return ""


class _OnlyType(msgspec.Struct):
    type: str


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a tensor on the CPU without gaps."""
    raw: Any = bytes_as_tensor(tensor).numpy()
    return memoryview(raw)


def bytes_as_tensor(tensor: Tensor) -> Tensor:
    """uint8 [bytes], the same memory."""
    return tensor.reshape(-1).view(torch.uint8)
