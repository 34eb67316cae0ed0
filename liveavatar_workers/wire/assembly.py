"""Messages cut into pieces for the wire, and put together again.

A piece is one ZeroMQ message of a small size, so that nobody takes memory for what is not announced and checked, a
slow network brings something all the time, and signs of life find a gap. Between the pieces of a message there may be
whole messages without tensors.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from .codec import Encoded, Incoming, MessageError, bytes_of, check, read_header

HEADER, CHUNK = b"h", b"c"
"""First frame of a piece; the second one is a message's header, or some of its tensors' bytes."""
CHUNK_BYTES = 2**18

Piece = tuple[bytes, bytes | memoryview]


def pieces(message: Encoded) -> Iterator[Piece]:
    yield HEADER, message.header
    for tensor in message.tensors:
        view = bytes_of(tensor)
        for start in range(0, len(view), CHUNK_BYTES):
            yield CHUNK, view[start : start + CHUNK_BYTES]


class Assembly:
    """Of what one peer sends; `kinds`: messages that it may send."""

    def __init__(self, kinds: Any) -> None:
        self._kinds = kinds
        self._message: Any = None
        self._tensors: list[Tensor] = []
        self._view = memoryview(b"")
        """The part of the first of the tensors that is still to be filled."""

    def add(self, frames: list[memoryview]) -> Any:
        """The message that is complete with this piece, or None. Raises MessageError, after which the next header
        begins anew."""
        if len(frames) != 2 or frames[0] not in (HEADER, CHUNK):
            self._message = None
            raise MessageError(f"{len(frames)} frames are no piece of a message")
        return self._begin(frames[1]) if frames[0] == HEADER else self._fill(frames[1])

    def _begin(self, header: memoryview) -> Any:
        incoming = Incoming()
        message = read_header(bytes(header), self._kinds, incoming)
        tensors = [tensor for tensor in incoming.tensors if tensor.numel()]
        if not tensors:
            check(message)
            return message
        interrupted, self._message = self._message, message
        self._tensors, self._view = tensors, bytes_of(tensors[0])
        if interrupted is not None:
            kind = interrupted.__struct_config__.tag
            raise MessageError(f"a message {kind!r} ended before all bytes of its tensors had come")
        return None

    def _fill(self, chunk: memoryview) -> Any:
        if self._message is None:
            # Of a message that could not be read, which has been said.
            return None
        message, size = self._message, chunk.nbytes
        if not 0 < size <= len(self._view):
            self._message = None
            kind = message.__struct_config__.tag
            raise MessageError(
                f"a message {kind!r} has {size:,} bytes where a tensor wants {len(self._view):,} at most"
            )
        self._view[:size] = chunk
        self._view = self._view[size:]
        if self._view:
            return None
        self._tensors.pop(0)
        if self._tensors:
            self._view = bytes_of(self._tensors[0])
            return None
        self._message = None
        check(message)
        return message
