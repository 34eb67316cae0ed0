"""ComfyUI's side of decoding in workers: latents go out block by block, frames come back in order."""

import contextlib
import secrets
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, MachineError
from ..vae.online_decoder import VideoStart
from .channel import ChannelError, dtype_name
from .decoding import CLOSE, DECODE, OPEN, REFUSED
from .link import Poll
from .remote import never
from .workers import Workers

PIXELS_PER_LATENT = 8


class RemoteDecoder:
    """Like `OnlineDecoder`, in the workers' rank that holds the VAE; begins a session there.

    `priming` and `start` as there; `dtype`: in which the VAE computes; frames travel in it too, which loses nothing.
    `poll` is called while the workers start. `ask` and `take` are the halves of `decode`: blocks that were asked for
    come in that order. Raises MachineError when the workers are gone, InputError when they refuse.
    """

    def __init__(
        self, workers: Workers, priming: Tensor, start: VideoStart | None, dtype: torch.dtype, poll: Poll = never
    ) -> None:
        self._workers, self._link = workers, workers.link(poll)
        self._number = secrets.randbits(48)
        self._asked = self._taken = 0
        self._size = [PIXELS_PER_LATENT * side for side in priming.shape[-2:]]
        self._link.begin_decoding(self._number)
        self._send({"type": OPEN, "start": start, "dtype": dtype_name(dtype)}, {"priming": priming.float()})

    def decode(self, latents: Tensor) -> Tensor:
        """latents [16, 3, h, w] in the model's space -> pixels float32 [3, frames, H, W] in -1..1, on the CPU."""
        return self.take(self.ask(latents))

    def ask(self, latents: Tensor) -> int:
        """Send a block's latents; returns its number, for `take`."""
        self._send({"type": DECODE, "block": self._asked}, {"latents": latents.float()})
        self._asked += 1
        return self._asked - 1

    def take(self, block: int) -> Tensor:
        """Wait for the frames of a block that was asked for."""
        try:
            message = self._link.receive_frames(self._number)
        except ChannelError as error:
            raise self._workers.failure(self._link) from error
        if message.type == REFUSED:
            raise InputError(message.header["message"])
        pixels = message.tensors.get("pixels")
        expected = [3, *self._size]
        if pixels is None or message.header["block"] != block or [pixels.shape[0], *pixels.shape[2:]] != expected:
            raise MachineError(f"the workers gave no frames of {expected} for block {block}: {message.header}")
        return pixels.float()

    def close(self) -> None:
        """The workers forget the session; what is still under way is not waited for, in no thread."""
        self._link.end_decoding(self._number)
        with contextlib.suppress(ChannelError):
            self._link.send({"type": CLOSE, "number": self._number})

    def _send(self, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        try:
            self._link.send({**header, "number": self._number}, tensors)
        except ChannelError as error:
            raise self._workers.failure(self._link) from error
