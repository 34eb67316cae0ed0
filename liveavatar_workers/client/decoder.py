"""ComfyUI's side of decoding in workers: latents go out block by block, frames come back in order."""

import contextlib
import secrets

import torch
from torch import Tensor

from liveavatar_runtime.dtypes import dtype_name
from liveavatar_runtime.errors import InputError, MachineError
from liveavatar_runtime.latent_space import STRIDE
from liveavatar_runtime.vae.online_decoder import VideoStart

from ..message import Message
from ..messages import CloseDecoder, Decode, DecoderRefused, OpenDecoder
from ..wire.endpoint import ConnectionLost
from .connection import Poll
from .executor import NUMBER_BITS, never
from .groups import Workers, loss_explained


class RemoteDecoder:
    """Like `OnlineDecoder`, in the workers' rank that holds the VAE; begins a session there.

    `priming` and `start` as there; `dtype`: in which the VAE computes; frames travel in it too, which loses nothing.
    `poll` is called while the workers start. `ask` and `take` are the halves of `decode`: blocks that were asked for
    come in that order. Raises MachineError when the workers are gone, InputError when they refuse.
    """

    def __init__(
        self, workers: Workers, priming: Tensor, start: VideoStart | None, dtype: torch.dtype, poll: Poll = never
    ) -> None:
        self._workers, self._connection = workers, workers.connection(poll)
        self._number = secrets.randbits(NUMBER_BITS)
        self._asked = self._taken = 0
        self._size = [STRIDE * side for side in priming.shape[-2:]]
        self._connection.begin_decoding(self._number)
        self._send(OpenDecoder(number=self._number, start=start, dtype=dtype_name(dtype), priming=priming.float()))

    def decode(self, latents: Tensor) -> Tensor:
        """latents [16, 3, h, w] in the model's space -> pixels float32 [3, frames, H, W] in -1..1, on the CPU."""
        return self.take(self.ask(latents))

    def ask(self, latents: Tensor) -> int:
        """Send a block's latents; returns its number, for `take`."""
        self._send(Decode(number=self._number, block=self._asked, latents=latents.float()))
        self._asked += 1
        return self._asked - 1

    def take(self, block: int) -> Tensor:
        """Wait for the frames of a block that was asked for."""
        with loss_explained(self._workers, self._connection):
            message = self._connection.receive_frames(self._number)
        if isinstance(message, DecoderRefused):
            raise InputError(message.reason)
        given, expected = list(message.pixels.shape), [3, *self._size]
        if message.block != block or len(given) != 4 or [given[0], *given[2:]] != expected:
            raise MachineError(
                f"the workers gave frames of {given} for block {message.block} instead of {expected} for block {block}"
            )
        return message.pixels.float()

    def close(self) -> None:
        """The workers forget the session; what is still under way is not waited for, in no thread."""
        self._connection.end_decoding(self._number)
        with contextlib.suppress(ConnectionLost):
            self._connection.send(CloseDecoder(number=self._number))

    def _send(self, message: Message) -> None:
        with loss_explained(self._workers, self._connection):
            self._connection.send(message)
