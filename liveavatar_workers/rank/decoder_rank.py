"""The rank that decodes: it holds the VAE instead of a share of the transformer, and turns latents into frames."""

import contextlib
import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import msgspec
import torch
from torch import Tensor

from liveavatar_runtime.checkpoint.safetensors_io import read_weight_file
from liveavatar_runtime.checkpoint.weights_key import vae_keys
from liveavatar_runtime.dtypes import dtype_name
from liveavatar_runtime.errors import InputError, handled
from liveavatar_runtime.latent_space import CHANNELS
from liveavatar_runtime.reading import readable
from liveavatar_runtime.vae import PlacedVAE, WanVAE, load_wan_vae
from liveavatar_runtime.vae.checkpoint import COMPUTE_DTYPES
from liveavatar_runtime.vae.online_decoder import OnlineDecoder

from ..keys import KeyPair
from ..messages import (
    Beat,
    CloseDecoder,
    Decode,
    DecoderAbout,
    DecoderRefused,
    Frames,
    Message,
    OpenDecoder,
    SessionEnded,
    ToDecoder,
    Welcome,
)
from ..wire.client import Client
from ..wire.codec import MessageError
from ..wire.endpoint import ConnectionLost
from .decoder_relay import ABOUT_KEY, ADDRESS_KEY, SILENCE_SECONDS
from .ranks import POLL_SECONDS, OtherRankLost, Rank

WAITING = 8
"""Requests that the rank holds before it stops reading. ComfyUI has at most three blocks under way."""


def serve_decoder(rank: Rank, path: Path, pair: KeyPair, mapped: bool = True) -> NoReturn:
    """Load the VAE, connect to rank 0, and decode until rank 0 is gone, which raises OtherRankLost."""
    with readable(path, "a VAE"):
        weights = read_weight_file(path, mapped=mapped)[0]
        size = sum(tensor.nbytes for tensor in load_wan_vae(weights).state_dict().values())
    about = DecoderAbout(rank=rank.number, where=rank.where, bytes=size, keys=vae_keys(weights))
    rank.store.set(ABOUT_KEY, msgspec.json.encode(about).decode())
    rank.wait_for(ADDRESS_KEY)
    address = msgspec.json.decode(rank.store.get(ADDRESS_KEY), type=tuple[str, int])
    client = Client(address, pair, pair.public, ToDecoder | Welcome | SessionEnded | Beat, SILENCE_SECONDS)
    DecoderRank(rank, client, weights).run()


class DecoderRank:
    """Sessions of `decoding`, one at a time, in the main thread; another one reads, so that an end is seen early."""

    def __init__(self, rank: Rank, client: Client, weights: Mapping[str, Tensor]) -> None:
        self._rank, self._client, self._weights = rank, client, weights
        self._vae: WanVAE | None = None
        self._decoder: OnlineDecoder | None = None
        self._dtype = torch.float32
        self._open = self._wanted = 0
        """The session that `_decoder` belongs to, and the one that ComfyUI has opened last and not closed."""
        self._lost = threading.Event()
        self._requests: queue.Queue[ToDecoder] = queue.Queue(WAITING)
        client.start(self._take, lambda why: self._lost.set())

    def run(self) -> NoReturn:
        while not self._lost.is_set():
            with contextlib.suppress(queue.Empty):
                message = self._requests.get(timeout=POLL_SECONDS)
                with self._rank.stall_detector.working():
                    self._answer(message)
        raise OtherRankLost("rank 0 closed the connection")

    def _take(self, message: ToDecoder | MessageError) -> None:
        if isinstance(message, MessageError):
            # Rank 0 has read it before, so this is an error in one of the programs.
            self._lost.set()
            raise message
        if isinstance(message, OpenDecoder):
            self._wanted = message.number
        elif isinstance(message, CloseDecoder) and message.number == self._wanted:
            self._wanted = 0
        while not self._lost.is_set():
            with contextlib.suppress(queue.Full):
                self._requests.put(message, timeout=POLL_SECONDS)
                return

    def _answer(self, message: ToDecoder) -> None:
        number = message.number
        if isinstance(message, OpenDecoder) or (isinstance(message, CloseDecoder) and number == self._open):
            # A new session lets go of what the one before remembers.
            self._decoder, self._open = None, number
        if number != self._wanted:
            return

        def refused(error: InputError) -> None:
            self._decoder = None
            self._send(DecoderRefused(number=number, reason=str(error)))

        with handled(InputError, refused):
            if isinstance(message, OpenDecoder):
                self._decoder = self._opened(message)
            elif isinstance(message, Decode) and self._decoder is not None:
                pixels = self._decoder.decode(checked_latents("latents", message.latents)).to(self._dtype)
                self._send(Frames(number=number, block=message.block, pixels=pixels))
                self._rank.stall_detector.settle()

    def _send(self, message: Message) -> None:
        # The client notices the end as well, and ends this rank.
        with contextlib.suppress(ConnectionLost):
            self._client.send(message)

    def _opened(self, message: OpenDecoder) -> OnlineDecoder:
        names = {dtype_name(dtype): dtype for dtype in COMPUTE_DTYPES}
        if message.dtype not in names:
            raise InputError(f"frames were asked for with dtype {message.dtype!r}; allowed are {', '.join(names)}")
        self._dtype = names[message.dtype]
        priming = checked_latents("priming", message.priming)
        place = PlacedVAE(self._vae_in(self._dtype), self._rank.device, self._dtype)
        return OnlineDecoder(place, priming, message.start)

    def _vae_in(self, dtype: torch.dtype) -> WanVAE:
        """From the file's weights, so that going through another dtype changes nothing."""
        if self._vae is None or self._vae.dtype != dtype:
            self._vae = None
            self._vae = load_wan_vae(self._weights, dtype=dtype, device=self._rank.device)
            for part in self._vae.modules():
                part.register_forward_pre_hook(lambda *_: self._rank.stall_detector.mark())
        return self._vae


def checked_latents(name: str, latents: Tensor) -> Tensor:
    """float32 [16, n, h, w] of a request. Raises InputError when it is none."""
    if latents.ndim != 4 or latents.shape[0] != CHANNELS or not latents.numel() or latents.dtype != torch.float32:
        given = f"{dtype_name(latents.dtype)} {list(latents.shape)}"
        raise InputError(f"the {name} to decode are {given}; they must be float32 [{CHANNELS}, frames, height, width]")
    return latents
