"""The rank that decodes: it holds the VAE instead of a share of the transformer, and turns latents into frames."""

import json
import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from ..checkpoint.reading import readable
from ..checkpoint.safetensors_io import read_tensors
from ..errors import InputError
from ..vae import WanVAE, load_wan_vae
from ..vae.checkpoint import DTYPES
from ..vae.online_decoder import VIDEO_STARTS, OnlineDecoder
from .channel import Channel, ChannelError, Message, connect, dtype_name
from .decoding import ADDRESS_KEY, CLOSE, DECODE, FACTS_KEY, FRAMES, MESSAGE_BYTES, OPEN, REFUSED, WAITING
from .ranks import Rank
from .weights_key import vae_keys

CHANNELS = 16


def serve_decoder(rank: Rank, path: Path, token: str, mapped: bool = True) -> NoReturn:
    """Load the VAE, connect to rank 0, and decode until rank 0 is gone, which raises RuntimeError."""
    with readable(path, "a VAE"):
        weights = read_tensors(path, mapped=mapped)[0]
        size = sum(tensor.nbytes for tensor in load_wan_vae(weights).state_dict().values())
    facts = {"rank": rank.number, "where": rank.where, "bytes": size, "keys": vae_keys(weights)}
    rank.store.set(FACTS_KEY, json.dumps(facts))
    rank.wait_for(ADDRESS_KEY)
    host, port = json.loads(rank.store.get(ADDRESS_KEY))
    channel = connect(host, port, token)
    channel.set_timeout(None)
    DecoderRank(rank, channel, weights).run()


class DecoderRank:
    """Sessions of `decoding`, one at a time, in the main thread; another one reads, so that an end is seen early."""

    def __init__(self, rank: Rank, channel: Channel, weights: Mapping[str, Tensor]) -> None:
        self._rank, self._channel, self._weights = rank, channel, weights
        self._vae: WanVAE | None = None
        self._decoder: OnlineDecoder | None = None
        self._dtype = torch.float32
        self._open = self._wanted = 0
        """The session that `_decoder` belongs to, and the one that ComfyUI has opened last and not closed."""
        self._lost: ChannelError | None = None
        self._requests: queue.Queue[Message | None] = queue.Queue(WAITING)
        threading.Thread(target=self._read, daemon=True, name="decoder requests").start()

    def run(self) -> NoReturn:
        while (message := self._requests.get()) is not None:
            with self._rank.progress.expected(True):
                self._answer(message)
        raise RuntimeError(f"Connection closed by rank 0: {self._lost}") from self._lost

    def _read(self) -> None:
        try:
            while True:
                message = self._channel.receive(body_bytes=MESSAGE_BYTES)
                number = message.header["number"]
                if message.type == OPEN:
                    self._wanted = number
                elif message.type == CLOSE and number == self._wanted:
                    self._wanted = 0
                self._requests.put(message)
        except ChannelError as error:
            self._lost = error
            self._requests.put(None)

    def _answer(self, message: Message) -> None:
        number = message.header["number"]
        if message.type == OPEN or (message.type == CLOSE and number == self._open):
            # A new session lets go of what the one before remembers.
            self._decoder, self._open = None, number
        if number != self._wanted:
            return
        try:
            if message.type == OPEN:
                self._decoder = self._opened(message)
            elif message.type == DECODE and self._decoder is not None:
                pixels = self._decoder.decode(checked_latents(message, "latents")).to(self._dtype)
                self._channel.send({**message.header, "type": FRAMES}, {"pixels": pixels})
                self._rank.progress.settle()
        except InputError as error:
            self._decoder = None
            self._channel.send({"type": REFUSED, "number": number, "message": str(error)})
        except ChannelError:
            # The reader ends this rank.
            self._decoder = None

    def _opened(self, message: Message) -> OnlineDecoder:
        start, name = message.header.get("start"), message.header.get("dtype")
        names = {dtype_name(dtype): dtype for dtype in DTYPES}
        if start not in (None, *VIDEO_STARTS) or name not in names:
            raise InputError(f"frames were asked for with start {start!r} and dtype {name!r}; update both sides")
        self._dtype = names[name]
        priming = checked_latents(message, "priming")
        return OnlineDecoder(self._vae_in(self._dtype), priming, start, self._rank.device, self._dtype)

    def _vae_in(self, dtype: torch.dtype) -> WanVAE:
        """From the file's weights, so that going through another dtype changes nothing."""
        if self._vae is None or self._vae.dtype != dtype:
            self._vae = None
            self._vae = load_wan_vae(self._weights, dtype=dtype, device=self._rank.device)
            for part in self._vae.modules():
                part.register_forward_pre_hook(lambda *_: self._rank.progress.mark())
        return self._vae


def checked_latents(message: Message, name: str) -> Tensor:
    """float32 [16, n, h, w] of a request. Raises InputError when it is none."""
    latents = message.tensors.get(name)
    if latents is None or latents.ndim != 4 or latents.shape[0] != CHANNELS or not latents.numel():
        given = "missing" if latents is None else list(latents.shape)
        raise InputError(f"the {name} to decode are {given}; they must be [{CHANNELS}, frames, height, width]")
    return latents
